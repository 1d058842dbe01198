"""Present so that pytest puts this folder on the import path: tests below may import its helper modules."""
