"""The steps of a session: which one is under way, what has happened in it, and what must have."""

from __future__ import annotations

from compbench.errors import CaptureError


class Steps:
    """Where a session stands. Everything that it saves asks here whether it may be used now.

    Attributes:
        done: number of steps that ended; also the number of the one that is under way, counted from 0.
        under_way: ``step`` or ``probe``; empty between them.
        ran: whether the model ran with gradients in it.
        saved: whether anything that the model saved came to the session.
        used: whether anything that was saved was asked for, by a backward pass.
        skipped: whether the step is to be forgotten.
    """

    __slots__ = ("done", "ran", "saved", "skipped", "under_way", "used")

    def __init__(self) -> None:
        self.done = 0
        self.under_way = ""
        self.ran = self.saved = self.used = self.skipped = False

    def begin(self, what: str) -> None:
        """Begins a step or a probe.

        Raises:
            CaptureError: another one has not ended.
        """
        if self.under_way:
            raise CaptureError(f"a {what} began inside {self.under_way} {self.done}, which has not ended")
        self.under_way = what
        self.ran = self.saved = self.used = self.skipped = False

    def end(self) -> None:
        """Ends it."""
        self.under_way = ""

    def check_complete(self) -> None:
        """Checks that a step which is about to end had all that a step has.

        Raises:
            CaptureError: the model did not run, or no backward pass did.
        """
        if self.skipped:
            return
        if not self.ran:
            raise CaptureError(
                f"step {self.done} ended and the session's model never ran with gradients: call the model itself, "
                "`model(x)` and not `model.forward(x)`, inside the step; `session.skip()` leaves a step out"
            )
        if self.saved and not self.used:
            raise CaptureError(
                f"step {self.done} ended without a backward pass: put `loss.backward()` into `with session.step():` "
                "too, evaluate under torch.no_grad(), or call `session.skip()` to leave the step out"
            )

    def use(self, number: int) -> None:
        """Notes that something is used which step ``number`` saved.

        Raises:
            CaptureError: no step is under way.
        """
        if not self.under_way:
            raise CaptureError(
                f"the backward pass of step {number} ran when the step had ended: "
                "put `loss.backward()` into `with session.step():`, beside the forward pass"
            )
        self.used = True
