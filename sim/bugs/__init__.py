"""Bugs that others have reported, as programs; `onestream bugs` explores them."""

from sim.bugs import (
    asyncio_78,
    daf_butler_1407,
    deer_flow_5395,
    gh_86296,
    gh_111358,
    gh_112202,
    gh_116720,
    httpcore_1093,
    kirocrew_7809,
    mlx_openai_server_269,
    redis_py_2624,
    sqlalchemy_8145,
    sse_starlette_156,
)
from sim.bugs.base import HistoricalBug

HISTORICAL_BUGS: tuple[HistoricalBug, ...] = (
    gh_86296.BUG,
    gh_112202.BUG,
    gh_116720.BUG,
    gh_111358.BUG,
    deer_flow_5395.BUG,
    kirocrew_7809.BUG,
    sse_starlette_156.BUG,
    daf_butler_1407.BUG,
    mlx_openai_server_269.BUG,
    redis_py_2624.BUG,
    sqlalchemy_8145.BUG,
    httpcore_1093.BUG,
    asyncio_78.BUG,
)

__all__ = ["HISTORICAL_BUGS", "HistoricalBug"]
