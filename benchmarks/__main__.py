"""All benchmarks of minutes, one after another: python -m benchmarks (or one: python -m benchmarks.folder).

`gpu`, `recipe`, `learning`, `outliers`, `own` and `rotpred` are run by name: two need a GPU, `own`
photographs, the others long.
"""

import importlib
import pkgutil

import benchmarks

BY_NAME = ("gpu", "recipe", "learning", "leaveout", "outliers", "own", "rotpred")


def main() -> None:
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    for name in sorted(set(names) - {"__main__", *BY_NAME}):
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
