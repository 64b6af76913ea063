"""The cells of a sweep: the product of the levels of each grid, and what is wrong with a section."""

from itertools import product

import pytest

from sslood.core.errors import InputError
from sslood.sweeps.grids import levels, name_of, read_sweep

GRID = {"objective": ["a", "b"], "beta": [0.1, 0.01], "projector": [[8, 4], [16]], "lr": 0.1}
AT = "params.yaml:sweeps.s"


def test_cells_are_the_products_of_all_grids():
    sweep = read_sweep({"detectors": ["knn"], "grids": [GRID, {"objective": "c", "seed": [7]}]}, [0, 1], AT)
    crossed = list(product(["a", "b"], [0.1, 0.01], [[8, 4], [16]], [0.1], [0, 1]))
    names = ("objective", "beta", "projector", "lr", "seed")
    assert list(sweep.cells) == [dict(zip(names, cell, strict=True)) for cell in crossed] + [
        {"objective": "c", "seed": 7}
    ]
    assert sweep.factors == ["objective", "beta", "projector"]  # lr has a single level
    assert levels(sweep.cells, "projector") == [[8, 4], [16]] and levels(sweep.cells, "seed") == [0, 1, 7]
    assert name_of(sweep.cells[0]) == "a, beta 0.1, projector 8-4, lr 0.1, seed 0"


def factors(*grids) -> list[str]:
    return read_sweep({"detectors": ["knn"], "grids": list(grids)}, [0], AT).factors


def test_a_single_level_is_a_factor_where_a_grid_of_the_same_objective_leaves_it_out():
    """Tables would hold two settings of one name, and show neither."""
    assert factors({"objective": ["a", "b"]}, {"objective": "a", "beta": 0.1}) == ["objective", "beta"]
    assert factors({"objective": "a"}, {"objective": "b", "beta": 0.1}) == ["objective"]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ([GRID], "sweeps.s: must hold keys and values, found [{"),
        ({"detectors": ["knn"], "grid": [GRID]}, "sweeps.s: unknown key 'grid' (did you mean 'grids'?)"),
        ({"grids": [GRID]}, "sweeps.s.detectors: must list at least one, found None"),
        (
            {"detectors": ["knn", "msp", "knn"], "grids": [GRID]},
            "sweeps.s.detectors: 'knn' stands twice; take one out",
        ),
        ({"detectors": ["knn"], "grids": GRID}, "sweeps.s.grids: must list at least one, found {"),
        ({"detectors": ["knn"], "grids": [{"beta": [1]}]}, "sweeps.s.grids.0: missing key 'objective'"),
        ({"detectors": ["knn"], "grids": [3]}, "sweeps.s.grids.0: must hold factors and their levels"),
        (
            {"detectors": ["knn"], "grids": [{**GRID, "beta": []}]},
            "sweeps.s.grids.0.beta: must list at least one level",
        ),
        ({"detectors": ["knn"], "grids": [{**GRID, 1: [2]}]}, "sweeps.s.grids.0: the factor 1 is no text"),
        ({"detectors": ["knn"], "grids": [{**GRID, None: 2}]}, "sweeps.s.grids.0: the factor None is no"),
        (
            {"detectors": ["knn"], "grids": [{**GRID, "seed": ["one"]}]},
            "sweeps.s.grids.0.seed: must be a whole number, found 'one'",
        ),
        (
            {"detectors": ["knn"], "grids": [GRID, {**GRID, "objective": "b"}]},
            "sweeps.s.grids: the cell b, beta 0.1, projector 8-4, lr 0.1, seed 0 stands twice; take one out",
        ),
        (
            {"detectors": ["knn"], "grids": [GRID, dict(reversed(GRID.items()))]},
            "sweeps.s.grids: the cell a, lr 0.1, projector 8-4, beta 0.1, seed 0 stands twice; take one out",
        ),
    ],
)
def test_a_wrong_section_is_named(section, says):
    with pytest.raises(InputError) as caught:
        read_sweep(section, [0, 1], AT)
    assert str(caught.value).startswith(f"params.yaml:{says}")
