"""What fields of several bodies have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Time = Annotated[str, Field(description="RFC 3339, UTC", json_schema_extra={"format": "date-time"})]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[int, Field(ge=0, description="milliseconds")]
Seconds = Annotated[float, Field(description="seconds")]
Rate = Annotated[float, Field(ge=0, description="a second")]
Url = Annotated[str, Field(description="of a worker, as it has told the group")]
Unanswered = Annotated[list[Url], Field(description="workers that did not answer in time")]
Reasons = Annotated[list[str], Field(description="in words, for people")]
