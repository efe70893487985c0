"""The reason in one line, out of the pages that exporters and runtimes raise."""


def reason_of(error: BaseException) -> str:
    """The first sentence that says what went wrong, without a full stop."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    listed = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    line = (listed or lines or [type(error).__name__])[0]
    return line.split(". ")[0].rstrip(".")
