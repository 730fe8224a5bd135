"""The APIs that clients speak: for chats one module each, a translation to chat completions and back."""

from app.dialects.base import Dialect
from app.dialects.chat import ChatDialect
from app.dialects.embeddings import EmbeddingsRequest
from app.dialects.messages import MessagesDialect, message_error
from app.dialects.responses import ResponsesDialect

__all__ = ["ChatDialect", "Dialect", "EmbeddingsRequest", "MessagesDialect", "ResponsesDialect", "message_error"]
