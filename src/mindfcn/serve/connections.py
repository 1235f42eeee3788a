"""Connections that send nothing are closed, so that they cannot keep others out."""

# Seconds in which a connection must send the head of a request, its first one or the next.
HEAD_SECONDS = 10


def with_deadline(protocol):
    """A subclass of uvicorn's HTTP protocol that closes a connection without a complete head for HEAD_SECONDS."""

    class Deadline(protocol):
        """The protocol with a timer for each connection."""

        def connection_made(self, transport):
            """Start the timer."""
            super().connection_made(transport)
            self.loop.call_later(HEAD_SECONDS, self.check_head, None)

        def check_head(self, before):
            """Close the connection if no request is under way and there was none since the last check."""
            if self.transport.is_closing():
                return
            busy = self.cycle is not None and not self.cycle.response_complete
            if not busy and self.cycle is before:
                self.transport.close()
                return
            self.loop.call_later(HEAD_SECONDS, self.check_head, self.cycle)

    return Deadline
