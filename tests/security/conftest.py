"""Which sandbox was attacked, said at the end: a machine without namespaces passes at the level that it has."""

LEVELS_RUN = set()


def pytest_runtest_logreport(report):
    LEVELS_RUN.update(value for name, value in report.user_properties if name == "isolation")


def pytest_terminal_summary(terminalreporter):
    if LEVELS_RUN:
        terminalreporter.line(f"hostile programs ran in the isolation: {', '.join(sorted(LEVELS_RUN))}")
