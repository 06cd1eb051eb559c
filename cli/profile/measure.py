"""`profile-device` itself."""

from __future__ import annotations

from cardlab.cli.console import note, print_json, print_line
from cardlab.cli.options import new_app
from cardlab.cli.parameters import Shared, callback
from cardlab.cli.stores import opening
from cardlab.core.text import duration, si
from cardlab.workflows.options.profile import ProfileOptions

app = new_app("Measure this device: per-layer time, FLOPs, bytes and memory of a model, power where there is a meter.")


@callback(app, ProfileOptions, shared=("db", "json", "version"))
def profile_device(options: ProfileOptions, shared: Shared) -> None:
    """Measure this device: per-layer time, FLOPs, bytes and memory of a model; power with a meter."""
    from cardlab.workflows.profile import check_options, profile

    check_options(options)
    if options.dry_run:
        _dry_run(options, shared)
        return
    from cardlab.cli.profile.live import make_observer
    from cardlab.cli.profile.profile_text import print_profile
    from cardlab.workflows.search import searched_document

    # Whoever measures for a plan needs a database that holds its other parties.
    with opening(shared, create=options.for_plan is None) as store, make_observer(quiet=shared.json) as observer:
        measured = profile(store, options, observer, note)
        found = searched_document(store, options, measured)
    print_profile(measured, shared.json, found)


def _dry_run(options: ProfileOptions, shared: Shared) -> None:
    from cardlab.workflows.profile import dry_run

    found = dry_run(options)
    if shared.json:
        points = [{"requested_hz": p.requested_hz, "memory_hz": p.memory_hz, "anchor": p.anchor} for p in found.planned]
        print_json(
            {
                "device": found.device,
                "points": points,
                "estimated_s": found.estimated_s,
                "reached": found.reached,
                "searches": found.searches,
            }
        )
        return
    time = " of its own, virtual time" if found.virtual else ""
    print_line(f"{found.device}: {len(found.planned)} operating point(s), about {duration(found.estimated_s)}{time}")
    if found.reached < len(found.planned):
        print_line(f"  the budget holds about {found.reached} of them; the rest is left to --resume")
    for p in found.planned:
        asked = "frequency as found" if p.requested_hz is None else si(p.requested_hz, "Hz")
        memory = "" if p.memory_hz is None else f", memory {si(p.memory_hz, 'Hz')}"
        print_line(f"  {asked}{memory}{' (anchor)' if p.anchor else ''}")
    if found.searches:
        wanted = "the best is known: 2 to 6 more" if options.for_plan is None else "the plan is decided: none to 6 more"
        print_line(f"  and then whichever tells most, until {wanted}, usually")
