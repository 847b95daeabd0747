"""Observers: one that keeps what it is told, and some that misbehave."""

import json
import sys
import time

import zoo


class Recorder:
    """Writes the names of events, and some of what they hold, into RUN/told.jsonl."""

    def __init__(self):
        self.run = None

    def __call__(self, event):
        if isinstance(event, zoo.RunStarted):
            self.run = event.run
        if self.run is None:
            return
        told = {"event": type(event).__name__}
        if isinstance(event, zoo.RunStarted):
            told |= {"classes": event.plan.classes, "resumed": event.resumed}
        elif isinstance(event, zoo.BatchFinished):
            told |= {"stage": event.stage, "step": event.step, "of": event.steps, "loss": event.loss}
            told["rates"] = dict(event.rates)
        elif isinstance(event, zoo.EpochFinished):
            told |= {"stage": event.stage, "epoch": event.epoch, "accuracy": event.val["accuracy"]}
        elif isinstance(event, zoo.CheckpointSaved):
            told |= {"there": event.path.is_dir(), "stages": event.stages}
        elif isinstance(event, zoo.RunFinished):
            told |= {"accuracy": event.result.accuracy, "confusion": event.confusion}
        elif isinstance(event, zoo.RunStopped):
            told["reason"] = event.reason
        with (self.run / "told.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")


class Meddler:
    """Tries to change the run by all that it can reach."""

    def __call__(self, event):
        import random

        import numpy
        import torch

        torch.manual_seed(1)
        torch.rand(3)
        random.seed(1)
        numpy.random.seed(1)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        print("meddling")
        for field in ("val", "rates"):
            if hasattr(event, field):
                getattr(event, field).clear()
        if isinstance(event, zoo.RunStarted):
            event.plan.stages[0].rates.clear()
        if isinstance(event, zoo.RunFinished):
            event.result.content.clear()


class Quitter:
    """Ends the process at the second batch, or tries."""

    def __init__(self):
        self.batches = 0

    def __call__(self, event):
        self.batches += isinstance(event, zoo.BatchFinished)
        if self.batches == 2:
            sys.exit("had enough")


def sleeper():
    """Takes longer than training does."""
    return lambda event: time.sleep(1.2 * isinstance(event, zoo.RunStarted))


def needy():
    """Needs a package that nobody installed."""
    raise ImportError("it needs curves_of_nobody.\nNext: pip install curves_of_nobody")


def crooked():
    """Is built as something that cannot be called."""
    return "watching"


@zoo.hookimpl
def zoo_observers():
    made = {
        "recorder": Recorder,
        "meddler": Meddler,
        "quitter": Quitter,
        "sleeper": sleeper,
        "needy": needy,
        "crooked": crooked,
    }
    return [zoo.ObserverSpec(name=name, summary=each.__doc__, build=each) for name, each in made.items()]
