"The command line, called in this process."
from typer.testing import CliRunner

from crosssuck.cli import app


def call(*words, code=0) -> str:
    "Say a verb, expect its exit code, give all that it printed; a fault of the program is raised as it is."
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output
