"""``chatcluster chat`` on a terminal: list, messages, typing and connection line, and a place to write."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    VSplit,
    Window,
)
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.styles import Style

from chatcluster.app.terminal import rendering
from chatcluster.app.terminal.orders import HELP, Quit, order
from chatcluster.app.terminal.talk import Conversation, Talk
from chatcluster.app.terminal.text import clean
from chatcluster.client import Message

LIST_WIDTH = 26
NOTES = 18
"""Lines of notes (help, errors) shown at once."""
PAGE = 10
"""Messages that Page Up and Page Down move."""


class Screen:
    """Draws a talk until the user leaves."""

    def __init__(self, talk: Talk, start: str | None = None) -> None:
        self._talk = talk
        self._start = start
        self._scrolled = 0
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._input = Buffer(
            multiline=True,
            completer=_Commands(),
            complete_while_typing=Condition(lambda: self._input.text.startswith("/")),
            history=InMemoryHistory(),
            on_text_changed=self._typed,
        )
        self._app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=Style.from_dict(rendering.STYLE),
            full_screen=True,
            mouse_support=False,
            refresh_interval=0.5,  # "reconnecting in 3 s" counts, typing ends
        )

    async def run(self) -> None:
        """Until /quit or Ctrl-C. Raises ``ChatError`` when the client ended for good."""
        talk = self._talk
        talk.changed = self._app.invalidate
        talk.told = self._note
        talk.received = self._received
        running = asyncio.create_task(talk.run())
        running.add_done_callback(lambda _: self._leave())
        beginning = asyncio.create_task(self._begin())
        try:
            await self._app.run_async()
        finally:
            self._app.output.flush()
            for task in (beginning, running):
                task.cancel()
            await asyncio.gather(beginning, running, return_exceptions=True)
        if not running.cancelled() and (error := running.exception()) is not None:
            raise error

    def _leave(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    async def _begin(self) -> None:
        talk = self._talk
        await talk.ready()
        rows = talk.sorted()
        try:
            if self._start is not None:
                talk.start(talk.open(talk.find(self._start)))
            elif rows and talk.current is None:
                talk.start(talk.open(rows[0]))
        except LookupError as error:
            self._note(str(error.args[0]))

    def _note(self, line: str) -> None:
        self._notes.append(clean(line))
        self._app.invalidate()

    def _received(self, conversation: Conversation, message: Message) -> None:
        if conversation is self._talk.current:
            if self._scrolled:
                self._scrolled += 1  # what is being read stays where it is
        elif message.sender != self._talk.chat.user:
            self._app.output.bell()

    def _typed(self, buffer: Buffer) -> None:
        if buffer.text and not buffer.text.startswith("/"):
            self._talk.typing()

    # -- drawing ---------------------------------------------------------------------------------------

    def _layout(self) -> Layout:
        talk = self._talk

        def line(draw: object, height: int = 1) -> Window:
            return Window(FormattedTextControl(draw), height=height, wrap_lines=False)  # type: ignore[arg-type]

        rows = Window(
            FormattedTextControl(lambda: rendering.conversations(talk, LIST_WIDTH)), width=LIST_WIDTH, wrap_lines=False
        )
        shown = Window(
            FormattedTextControl(lambda: rendering.messages(talk, self._scrolled, self._width()), show_cursor=False),
            wrap_lines=True,
        )
        notes = ConditionalContainer(
            Window(
                FormattedTextControl(lambda: [("class:wait", "\n".join(self._notes))]),
                height=lambda: Dimension.exact(len(self._notes)),
            ),
            Condition(lambda: bool(self._notes)),
        )
        writing = Window(
            BufferControl(self._input, input_processors=[BeforeInput("› ", style="class:own")]),
            height=lambda: Dimension.exact(min(6, max(1, self._input.document.line_count))),
            wrap_lines=True,
        )
        right = HSplit(
            [
                line(lambda: rendering.header(talk)),
                shown,
                notes,
                line(lambda: rendering.typing(talk)),
                Window(height=1, char="─", style="class:quiet"),
                writing,
            ]
        )
        body = HSplit(
            [
                VSplit([rows, Window(width=1, char="│", style="class:quiet"), right]),
                line(self._status),
            ]
        )
        menu = Float(CompletionsMenu(max_height=8), xcursor=True, ycursor=True)
        return Layout(FloatContainer(body, [menu]), focused_element=writing)

    def _width(self) -> int:
        return max(20, self._app.output.get_size().columns - LIST_WIDTH - 1)

    def _status(self) -> rendering.Fragments:
        now = asyncio.get_running_loop().time()
        user = clean(self._talk.chat.user)
        back = f"  ↑ {self._scrolled} newer below" if self._scrolled else ""
        return [
            ("", " "),
            *rendering.state(self._talk, now),
            ("class:quiet", f"  {user}  Ctrl-N/P switch · PgUp older · /help{back}"),
        ]

    # -- keys --------------------------------------------------------------------------------------------

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _enter(event: KeyPressEvent) -> None:
            self._submit()

        @keys.add("escape", "enter")
        def _newline(event: KeyPressEvent) -> None:
            self._input.insert_text("\n")

        @keys.add("escape", eager=False)
        def _escape(event: KeyPressEvent) -> None:
            self._notes.clear()
            self._scrolled = 0

        @keys.add("c-n")
        def _next(event: KeyPressEvent) -> None:
            self._step(1)

        @keys.add("c-p")
        def _previous(event: KeyPressEvent) -> None:
            self._step(-1)

        @keys.add("pageup")
        def _up(event: KeyPressEvent) -> None:
            self._scroll(PAGE)

        @keys.add("pagedown")
        def _down(event: KeyPressEvent) -> None:
            self._scroll(-PAGE)

        @keys.add("c-c")
        @keys.add("c-d")
        def _quit(event: KeyPressEvent) -> None:
            self._leave()

        return keys

    def _submit(self) -> None:
        text = self._input.text
        if not text.strip():
            return
        self._notes.clear()
        try:
            wanted = order(self._talk, text)
        except Quit:
            self._leave()
            return
        except LookupError as error:
            self._note(str(error.args[0]))
            return
        self._input.append_to_history()
        self._input.reset()
        self._scrolled = 0
        if wanted is not None:
            self._talk.start(wanted)

    def _step(self, by: int) -> None:
        to = self._talk.step(by)
        if to is not None:
            self._scrolled = 0
            self._notes.clear()
            self._talk.start(self._talk.open(to))

    def _scroll(self, by: int) -> None:
        talk = self._talk
        if talk.current is None:
            return
        have = len(talk.view(talk.current).messages())
        wanted = max(0, self._scrolled + by)
        if wanted >= have - PAGE and by > 0 and not talk.view(talk.current).complete:
            talk.start(talk.chat.older(talk.current.id))
        self._scrolled = min(wanted, max(0, have - 1))


class _Commands(Completer):
    """Names of commands, while one is typed."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/") or " " in typed:
            return
        for usage, meaning in HELP.items():
            for name in usage.replace(",", " ").split():
                if name.startswith("/") and name.startswith(typed):
                    yield Completion(name, start_position=-len(typed), display_meta=meaning)
