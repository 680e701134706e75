"""`bwlab analyze norms`: the size of an adapter's changes and the number of directions that it uses."""

from __future__ import annotations

from bwlab_analysis.cli.options import CellsOption, FileArgument, JsonOption, ModulesOption, ReportOption, WeightsOption


def norms_command(
    file: FileArgument,
    base: WeightsOption = None,
    as_json: JsonOption = False,
    cells: CellsOption = False,
    modules: ModulesOption = False,
    report: ReportOption = None,
) -> None:
    """Show for each block and kind of module how much an adapter changes, and how many directions it uses.

    With --base, also show the change as a share of the weights that it changes. Adapters such as OFT, whose deltas
    depend on the weights of the base, need --base.
    """
    from bwlab.terminal import warn
    from bwlab_analysis import analyze
    from bwlab_analysis.report.show import show

    norms = analyze.norms(file, base=base, warn=warn)
    show(lambda: norms.presentation(cells, modules), norms.document, as_json=as_json, report=report)
