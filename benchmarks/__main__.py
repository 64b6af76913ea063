"""All benchmarks of minutes, one after another: python -m benchmarks (or one: python -m benchmarks.folder).

Those of BY_NAME are left out: `agreement`, `gpu` and `recipe` need a GPU, `boxes`, `own` and `pasted`
photographs, `definitions`, `drift`, `findings` and `resizing` embeddings, the others are long or take
options.
"""

import importlib
import pkgutil

import benchmarks

BY_NAME = (
    "agreement boxes definitions drift fast findings finetuning gpu leaveout learning looks members "
    "outliers own parallel pasted provenance recipe resizing rotpred seeds"
).split()


def main() -> None:
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    for name in sorted(set(names) - {"__main__", *BY_NAME}):
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
