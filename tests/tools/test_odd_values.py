"""The short form of the campaign of odd values: two configs, every other key once."""

from tools.odd_values import ODD, cases, outcome


def test_odd_values_are_accepted_or_refused_by_the_name_of_their_key() -> None:
    found = list(cases(["method=mochi", "method=isogclr"]))
    assert len(found) > 1000
    picked = found[:: 2 * len(ODD) + 1]  # of every other key, each time another value
    kinds = {str(case): outcome(cfg, case) for cfg, case in picked}
    wrong = {case: said for case, (kind, said) in kinds.items() if kind not in ("refused", "accepted")}
    assert wrong == {}
    refused = sum(kind == "refused" for kind, _ in kinds.values())
    assert refused > len(kinds) / 2
