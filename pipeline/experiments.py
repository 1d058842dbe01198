from typing import Literal

Name = Literal["demo"]


class Experiment:
    pass


def named(*a): ...
