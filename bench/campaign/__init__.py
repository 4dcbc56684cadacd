"""The fault campaign: regions under load and faults, every operation written down, and an independent judge.

    history   what a campaign writes: one JSON object a line
    token     the tokens that writes are answered with, taken apart
    judge     the rules: a history and the regions' rows in, violations out
    rows      the regions' rows, read over their public HTTP API
    checker   the two together, as a program: python -m bench.campaign.checker HISTORY
    clients   who upserts, deletes, queries; the operations are a table
    disk      small disks that can be filled
    faults    what is done to the regions; the faults are a table
    report    JSON and markdown
    run       python -m bench.campaign, ./dev bench campaign

history, token, judge, rows and checker use Python's own library and nothing of the harness or the daemons.
"""
