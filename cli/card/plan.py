"""`card plan`."""

from __future__ import annotations

import os

from cardlab.cli.calibrate.fit import WITH_PLOT
from cardlab.cli.card.app import app
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.errors import UsageError
from cardlab.workflows.options.card import PlanOptions


@command(app, PlanOptions, name="plan", shared=WITH_PLOT)
def plan(options: PlanOptions, shared: Shared) -> None:
    """Make a plan from the database or from a scenario."""
    if not options.from_db and options.scenario is None:
        raise UsageError("a plan needs constants", remedy="give --from-db, --scenario FILE (or card-letter), or both")
    from cardlab.cli.card.plan_table import print_plan
    from cardlab.cli.drawing import drawn_or_none
    from cardlab.reports.views.decisions import plan_pictures
    from cardlab.workflows.plan import plan as make_plan

    # The plan of a scenario is kept only where somebody named a database.
    if options.from_db or shared.db or os.environ.get("CARD_DB"):
        # Constants need a database that exists; one that is only to keep the plan is made.
        with open_shared(shared, create=not options.from_db) as store:
            made = make_plan(store, options)
    else:
        made = make_plan(None, options)
    print_plan(made, shared.json, drawn_or_none(shared.plot, lambda: plan_pictures(made)))
