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
    from bwlab.plugins.manager import build_manager
    from bwlab.terminal import warn
    from bwlab_analysis.installed import block_metrics
    from bwlab_analysis.report.documents import norms_document
    from bwlab_analysis.report.norms import present_norms
    from bwlab_analysis.report.show import show
    from bwlab_analysis.weights.adapter_weights import weights_of
    from bwlab_analysis.weights.norms import measure_norms

    manager = build_manager()
    norms = measure_norms(file, block_metrics(manager, warn), manager, weights_of(base))

    show(
        lambda: present_norms(norms, cells, modules),
        lambda: norms_document(norms),
        as_json=as_json,
        report=report,
    )
