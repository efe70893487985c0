"""Records on the terminal: a line an epoch, some of the evaluations, a bar while they run, tables at the end."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lwdc.records import CorrelationRecord, EpochRecord, EvaluationRecord, Note, Record, Result, SearchState
from lwdc.text import duration, percent, significant
from lwdc.tracking import table as tables

_PLAIN_WIDTH = 200  # of an output that is no terminal: nothing there forces a line to break
_EVALUATIONS = "evaluations"
_LINES = 10  # of the evaluations of a search, besides those for every new best


class TerminalSink:
    """Prints records to ``console``; in plain lines, with no control codes, where it is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._console = console if self._live else _plain(console)
        self._phase: str | None = None
        self._seconds: list[float] = []  # of the epochs seen in this phase
        self._bar: Progress | None = None
        self._since = self._console.get_time()  # when the evaluations began, as far as it is known
        self._evaluated = 0  # of this search, in this process
        self._best: float | None = None
        self._causes: list[str] = []  # of the evaluations that failed

    def write(self, record: Record) -> None:
        match record:
            case EvaluationRecord():
                self._evaluation(record)
                return
            case CorrelationRecord():
                self._table(tables.correlation_table(record))
            case EpochRecord():
                self._epoch(record)
            case Note():
                self._line(_note(record))
            case Result():
                self._result(record)
        if not self._evaluated:
            self._since = self._console.get_time()

    def progress(self, phase: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        """Move the bar of the phase, from 1 to ``epochs`` times ``steps``; in plain mode nothing happens."""
        if not self._live:
            return
        label = f"{phase} {epoch}/{epochs}" + (f"  loss {significant(loss)}" if loss is not None else "")
        done, total = (epoch - 1) * steps + step, epochs * steps
        self._start_phase(phase)
        self._move_bar(label, done, total, TimeRemainingColumn(compact=True), TextColumn("left"))

    def close(self) -> None:
        self._stop_bar()

    def _epoch(self, record: EpochRecord) -> None:
        if self._start_phase(record.phase) or not self._seconds:
            self._line(Text(_header(record), style="bold"))
        self._seconds.append(record.seconds)
        left = (record.epochs - record.epoch) * sum(self._seconds) / len(self._seconds)
        if record.epoch == record.epochs:
            self._stop_bar()
        self._line(Text(_row(record, left)))

    def _evaluation(self, record: EvaluationRecord) -> None:
        """A line for a new best, for every tenth of the search and for the first failure of a kind."""
        self._start_phase(_EVALUATIONS)
        if not self._evaluated:
            self._line(Text(_EVALUATION_HEADER, style="bold"))
        self._evaluated += 1
        # By the clock: several may be evaluated at a time.
        spent = self._console.get_time() - self._since
        left = (record.evaluations - record.index) * spent / self._evaluated
        last = record.index == record.evaluations
        if self._live and not last:
            best = f"  best {significant(record.best, digits=4)}" if record.best is not None else ""
            label = f"evaluations {record.index}/{record.evaluations}{best}"
            self._move_bar(label, record.index, record.evaluations, TextColumn("{task.fields[left]} left"), left=left)
        if last:
            self._stop_bar()
        if record.best != self._best or last or record.index % -(-record.evaluations // _LINES) == 0:
            self._best = record.best
            self._line(Text(_evaluation_row(record, left)))
        if record.accuracy is None:
            cause = record.error or "no accuracy"
            if cause not in self._causes:
                self._line(_note(Note(f"evaluation {record.index} failed: {cause}", level="warning")))
            self._causes.append(cause)
        if last and self._causes:
            text = f"{len(self._causes)} of {self._evaluated} evaluations failed"
            self._line(_note(Note(text, level="warning")))

    def _result(self, result: Result) -> None:
        self._stop_bar()
        self._line(Text())
        self._line(Text(tables.headline(result), style="bold"))
        self._table(tables.site_table(result.sites))
        legend = tables.slower_legend(result.sites)
        if legend is not None:
            self._line(Text(legend, style="yellow"))
        self._table(tables.accuracy_table(result))
        self._table(tables.totals_table(result.before, result.after))
        if result.exports:
            self._table(tables.export_table(result.exports))
        if result.int8 is not None:
            self._table(tables.int8_table(result.int8))
        for line in tables.closing_lines(result):
            self._line(Text(line))
        self._line(Text(f"everything lies in {result.folder}"))
        for warning in result.warnings:  # last, where it is seen
            self._line(_note(Note(warning, level="warning")))

    def _start_phase(self, phase: str) -> bool:
        if phase == self._phase:
            return False
        self._stop_bar()
        self._phase, self._seconds = phase, []
        return True

    def _move_bar(
        self, label: str, done: int, total: int, *columns: ProgressColumn, left: float | None = None
    ) -> None:  # fmt: skip
        """Move the bar, which is made, with these further columns, where there is none."""
        shown = "" if left is None else duration(left)
        if self._bar is None:
            self._bar = _start_bar(self._console, columns)
            self._bar.add_task(label, completed=done, total=total, left=shown)
        else:
            self._bar.update(self._bar.task_ids[0], description=label, completed=done, total=total, left=shown)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _table(self, table: Table) -> None:
        table.padding = (0, 1 if self._console.width < 100 else 2, 0, 0)
        with self._console.capture() as captured:
            self._console.print(table)
        self._line(Text())
        for line in captured.get().splitlines():
            self._line(Text.from_ansi(line.rstrip()))


def _plain(console: Console) -> Console:
    """A console on the same file that neither colours nor wraps."""
    width = max(console.width, _PLAIN_WIDTH)
    return Console(
        file=console.file, width=width, force_terminal=False, color_system=None, get_time=console.get_time
    )  # fmt: skip


def _start_bar(console: Console, columns: Sequence[ProgressColumn]) -> Progress:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        *columns,
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=4,  # the thread that draws shares the cores with the training
        speed_estimate_period=120,  # seconds: long enough to hold a validation
    )
    bar.start()
    return bar


def _header(record: EpochRecord) -> str:
    search = f"{'cost':>7}{'bound':>7}{'factor':>7}{'decided':>8}" if record.search is not None else ""
    return f"{'phase':8}{'epoch':>8}{'loss':>7}{'train':>7}{'valid':>7}{search}{'time':>7}{'left':>7}"


def _row(record: EpochRecord, left: float) -> str:
    """79 columns at most, so that a terminal of 80 shows it on one line."""
    return (
        f"{record.phase:8}{f'{record.epoch}/{record.epochs}':>8}{significant(record.loss, digits=4, decimals=4):>7}"
        f"{percent(record.train_accuracy):>7}{percent(record.valid_accuracy):>7}"
        f"{_search_cells(record.search)}{duration(record.seconds):>7}{duration(left) if left else '':>7}"
    ).rstrip()


_EVALUATION_HEADER = (
    f"{'phase':8}{'evaluation':>11}{'accuracy':>9}{'expected':>9}{'cost':>7}"
    f"{'score':>7}{'best':>7}{'time':>7}{'left':>7}"
)


def _evaluation_row(record: EvaluationRecord, left: float) -> str:
    score, best = (
        "-" if value is None else significant(value, digits=4, decimals=4) for value in (record.score, record.best)
    )
    return (
        f"{'search':8}{f'{record.index}/{record.evaluations}':>11}{percent(record.accuracy):>9}"
        f"{percent(record.predicted):>9}{percent(record.share):>7}{score:>7}{best:>7}"
        f"{duration(record.seconds):>7}{duration(left) if left else '':>7}"
    ).rstrip()


def _search_cells(search: SearchState | None) -> str:
    if search is None:
        return ""
    cost = search.costs[0]
    return (
        f"{percent(cost.expected):>7}{percent(cost.bound):>7}"
        f"{significant(cost.factor, decimals=4):>7}{search.decided:>8.2f}"
    )


def _note(note: Note) -> Text:
    if note.level == "warning":
        return Text.assemble(("warning: ", "bold yellow"), note.text)
    return Text(note.text)
