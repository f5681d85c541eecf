"""The report: what becomes of a model, in numbers that can be counted by hand."""

import json

import pytest
import torch
from torch import Tensor, nn

from skipfx.options import DynConv, Gumbel, Hold, InputNorm
from skipfx.report import Report
from skipfx.transformation import inspect, transform
from tests.networks import Branches, Squeeze, branches_clip, moving_clip, seeded


@pytest.fixture(scope="module")
def report() -> Report:
    return inspect(seeded(Branches()), branches_clip()[0], gate=Hold(threshold=0.25))


@pytest.fixture(scope="module")
def squeeze() -> Report:
    return inspect(seeded(Squeeze()), moving_clip(3, 8, 10)[0])


def test_macs_of_the_sparse_region(report: Report) -> None:
    pixels = 12 * 16
    macs = {
        "stem": 8 * 3 * 9 * pixels,
        "body": 8 * 8 * 9 * pixels,
        "down": 4 * 8 * 9 * pixels // 4,
        "head": 2 * 12 * pixels,
    }
    assert {layer.name: layer.macs for layer in report.layers if layer.macs} == macs
    assert report.sparse_macs == report.total_macs == sum(macs.values())
    assert report.sparse_convs == 4 and report.sparse_share == 1.0 and report.islands == ()


def test_macs_of_islands_and_their_reasons(squeeze: Report) -> None:
    assert squeeze.total_macs - squeeze.sparse_macs == 6 * 6  # the linear layer of the squeeze
    reasons = {island.reason: (island.count, island.macs, island.layers) for island in squeeze.islands}
    assert reasons["a linear layer over something else than the channels of every position"] == (1, 36, ("gate",))
    assert any(reason.startswith("a standard deviation") for reason in reasons)
    assert squeeze.islands[0].macs == 36  # the most work first


def test_an_excluded_convolution_counts_as_an_island() -> None:
    excluded = inspect(seeded(Branches()), branches_clip()[0], exclude=("body",))
    whole = inspect(seeded(Branches()), branches_clip()[0])
    assert excluded.total_macs == whole.total_macs
    assert [island.reason for island in excluded.islands] == ["excluded by 'body'"]
    assert excluded.islands[0].macs == 8 * 8 * 9 * 12 * 16


def test_rows_say_what_is_held_and_how_far_a_change_spreads(report: Report) -> None:
    rows = {layer.name: layer for layer in report.layers if layer.op == "conv2d"}
    assert rows["body"].shape == (1, 8, 12, 16)
    assert (rows["body"].growth, rows["head"].growth) == (2, 0)
    assert not rows["stem"].held and rows["head"].held
    resize = next(layer for layer in report.layers if layer.op == "upsample_nearest2d")
    assert resize.growth == 0 and resize.held and resize.state_bytes == 4 * 12 * 16 * 4


def test_reach_adds_up_along_the_longest_way(report: Report) -> None:
    reach = {layer.op if layer.macs == 0 else layer.name: layer.reach for layer in report.layers}
    assert (reach["stem"], reach["body"], reach["max_pool2d"]) == (2, 4, 6)
    assert reach["down"] == 8 and reach["head"] == 8  # its inputs: the pool, at 6, and the resize, at 8


def test_strides_count_in_reach() -> None:
    strided = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3, 2, 1))
    layers = inspect(seeded(strided), (torch.rand(1, 3, 16, 16),)).layers
    assert [(layer.growth, layer.reach) for layer in layers] == [(2, 2), (2, 2 + 2 * 2), (2, 2 + 2 * 2 + 2 * 2)]


def test_work_that_remains_follows_the_rule(squeeze: Report) -> None:
    dense = squeeze.total_macs - squeeze.sparse_macs
    for activity, left in squeeze.remaining:
        assert left == pytest.approx((1.25 * activity * squeeze.sparse_macs + dense) / squeeze.total_macs)
    # at the break-even activity a frame costs what a dense one does
    assert squeeze.break_even * 1.25 * squeeze.sparse_macs + dense == pytest.approx(squeeze.total_macs)


def test_ends_name_where_until_may_cut() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.body(x))
            out: Tensor = (self.head(y).flatten(2).softmax(-1) @ y.flatten(2).transpose(1, 2)).sort().values
            return out

    model, (frame,) = seeded(Ends()), branches_clip()[0]
    report = inspect(model, (frame,))
    assert report.ends == ("relu", "head") and "end      all is dense behind relu, head" in report.summary()
    cut = inspect(torch.export.export(model, (frame,)), until=report.ends)
    assert cut.islands == () and cut.ends == () and cut.total_macs == report.sparse_macs


def test_states_are_those_of_the_stream(report: Report) -> None:
    skip = transform(seeded(Branches()), branches_clip()[0], gate=Hold(threshold=0.25, input_threshold=0.1))
    state = skip.init_state()
    assert report.states == skip.report.states == len(state) - 1
    assert report.state_bytes == sum(t.numel() * 4 for name, t in state.items() if name != "fresh")


def test_the_summary_names_the_gate_and_the_reasons(squeeze: Report) -> None:
    text = squeeze.summary()
    assert text.startswith("gate     hold(threshold=0.1, norm=rms, dilation=3, block=1, update=recompute)")
    assert "sparse   2 convolutions" in text and "(99.9%)" in text
    assert "dense    1 x a linear layer over something else than the channels of every position (36 MACs): gate" in text


def test_the_text_has_a_row_per_operator(report: Report) -> None:
    lines = str(report).splitlines()
    assert lines[: len(report.summary().splitlines())] == report.summary().splitlines()
    head = next(line for line in lines if line.startswith("head"))
    state = f"{2 * 12 * 16 * 4 / 1024:.0f}"
    assert head.split() == ["head", "conv2d", "2", "x", "12", "x", "16", "4.6", "k", state, "KiB", "+0", "+8", "px"]
    assert max(map(len, lines)) <= 120


def test_the_report_goes_through_json(squeeze: Report) -> None:
    data = json.loads(squeeze.model_dump_json())
    assert data["sparse_convs"] == 2
    assert Report.model_validate(data) == squeeze


def test_other_gates_are_described() -> None:
    report = inspect(seeded(Branches()), branches_clip()[0], gate=InputNorm(eps=0.5))
    assert report.gate == "input_norm(eps=0.5, p=1, reference=held, block=1, update=recompute)"


class _Detects(nn.Module):
    """Boxes: as many as there are bright pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.nonzero(self.conv(x)[0, 0] > 0.5)
        return found.float() @ torch.ones(2, 2)


def test_sizes_that_depend_on_the_frame_are_no_obstacle() -> None:
    report = inspect(seeded(_Detects()), moving_clip(3, 8, 10)[0])
    assert report.sparse_macs == report.total_macs == 4 * 3 * 80


def test_learned_gates_and_their_cost_are_shown() -> None:
    frames = branches_clip()[0]
    report = transform(seeded(Branches()), frames, gate=Gumbel(block=2)).report
    stem = report.gates[0]
    assert (stem.name, stem.convs, stem.macs, stem.own_macs) == ("stem", 1, 12 * 16 * 8 * 27, 12 * 16 * 27)
    assert (
        len(report.gates) == 4 and "learned  4 gates decide on" in report.summary() and "(100.0%)" in report.summary()
    )
    (block,) = transform(seeded(Branches()), frames, gate=DynConv(target=0.5)).report.gates
    assert (block.convs, block.macs, block.own_macs) == (1, 12 * 16 * 8 * 8 * 9, 12 * 16 * 8)
    assert "learned gate" in str(report) and "1 convolution " in str(report)
