"""Records out of Redis: to a Parquet file, or to a table of any database that SQLAlchemy knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec

from app.errors import ConfigError
from app.ledger.record import STAGES, Record

_TABLE = "tierwise_ledger"
_BLOCK = 500
_EXTRA = "pip install 'tierwise[ledger]'"
Row = Mapping[str, Any]
Write = Callable[[Sequence[Row]], None]


async def export(records: AsyncIterator[tuple[str, Record]], target: str) -> int:
    """Write records with their names, a block at a time; return how many.

    Args:
        target: A file that ends in `.parquet`, which is replaced; or a database's URL, such as
            `sqlite:///ledger.db`. There the records join those of the table `tierwise_ledger`; one that is there
            already is written anew, so that a period may be exported twice.

    Raises:
        ConfigError: It cannot be written to; the message says why.
    """
    count = 0
    block: list[Row] = []
    with _opened(target) as write:
        async for name, record in records:
            block.append(_row(name, record))
            if len(block) == _BLOCK:
                write(block)
                count, block = count + len(block), []
        write(block)
    return count + len(block)


def _columns() -> dict[str, type]:
    """Name the columns: the record's fields, its stages one by one."""
    columns: dict[str, type] = {"entry": str, "time": datetime}
    for field in msgspec.structs.fields(Record):
        if field.name == "stages":
            columns |= {f"{stage}_s": float for stage in STAGES}
        elif field.name != "time":
            plain = {bool: bool, int: int, float: float}
            columns[field.name] = next((plain[t] for t in (field.type, *get_args(field.type)) if t in plain), str)
    return columns


_COLUMNS = _columns()


def _row(name: str, record: Record) -> Row:
    values = {column: getattr(record, column, None) for column in _COLUMNS}
    values |= {f"{stage}_s": seconds for stage, seconds in record.stages.items()}
    return values | {"entry": name, "time": datetime.fromtimestamp(record.time, UTC)}


@contextmanager
def _opened(target: str) -> Iterator[Write]:
    try:
        with _database(target) if "://" in target else _parquet(Path(target)) as write:
            yield write
    except ImportError as error:
        raise ConfigError(f"cannot export to `{target.partition(':')[0]}`: {error}; install it, or {_EXTRA}") from error


@contextmanager
def _parquet(file: Path) -> Iterator[Write]:
    if file.suffix != ".parquet":
        raise ConfigError(f"cannot export to `{file}`: name a file that ends in `.parquet`, or a database's URL")
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, types.get(kind, pa.timestamp("us", "UTC"))) for name, kind in _COLUMNS.items()])
    try:
        with pq.ParquetWriter(file, schema) as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist(list(rows), schema))
    except OSError as error:
        raise ConfigError(f"cannot export to `{file}`: {error}") from error


@contextmanager
def _database(url: str) -> Iterator[Write]:
    import sqlalchemy as sql

    types = {str: sql.Text, int: sql.BigInteger, float: sql.Double, bool: sql.Boolean}
    table = sql.Table(_TABLE, sql.MetaData(), sql.Column("entry", sql.String(64), primary_key=True))
    for name, kind in list(_COLUMNS.items())[1:]:
        table.append_column(sql.Column(name, types.get(kind, sql.DateTime(timezone=True)), index=name == "time"))
    try:
        engine = sql.create_engine(url)
        table.create(engine, checkfirst=True)

        def write(rows: Sequence[Row]) -> None:
            with engine.begin() as connection:
                connection.execute(table.delete().where(table.c.entry.in_([row["entry"] for row in rows])))
                if rows:
                    connection.execute(table.insert(), list(rows))

        yield write
        engine.dispose()
    except sql.exc.SQLAlchemyError as error:
        raise ConfigError(f"cannot export to the database: {getattr(error, 'orig', None) or error}") from error
