"""The pages say what the programs do."""
from harness import configuration, paths


def test_every_option_is_on_the_page():
    page = (paths.ROOT / "docs" / "configuration.md").read_text()
    assert page == configuration.page(), "docs/configuration.md is out of date: PYTHONPATH=tests python -m harness.configuration > docs/configuration.md"
    for role in configuration.ROLES:
        assert len(configuration.options(role)) >= 10, f"--help of {role} was not understood"
