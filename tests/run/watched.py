"""A progress display that keeps what it is told."""

import io

from compbench.run.progress import Progress


class Watched(Progress):
    """Keeps where cells run, and does something when the n-th has ended."""

    def __init__(self, plan, ended=0, do=None):
        super().__init__(plan, io.StringIO())
        self.ended, self.do, self.places, self.lost = ended, do, {}, []

    def started(self, cell, place):
        super().started(cell, place)
        self.places[cell.key] = place

    def again(self, cell, why):
        super().again(cell, why)
        self.lost.append((cell.key, why))

    def finished(self, result):
        super().finished(result)
        self.places.pop(result.key, None)
        self.ended -= 1
        if self.ended == 0:
            self.do(self)
