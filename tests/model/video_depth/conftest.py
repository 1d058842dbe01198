"""Present so that pytest puts this folder on the import path: tests here import `vda_small`."""
