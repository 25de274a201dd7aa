import gc
import weakref

from train.world import garbage


class Knot:
    def __init__(self):
        self.me = self


def test_knots_are_collected_at_fixed_steps_and_never_between():
    with garbage.collected_by_hand():
        assert not gc.isenabled()
        knots = [weakref.ref(Knot()) for _ in range(5000)]
        for step in range(1, garbage.EVERY_STEPS):
            garbage.collect(step)
        assert all(k() is not None for k in knots)
        garbage.collect(garbage.EVERY_STEPS)
        assert all(k() is None for k in knots)
    assert gc.isenabled() and not gc.get_freeze_count()
