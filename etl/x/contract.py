"""What the pipeline guarantees of published posts."""

from __future__ import annotations

from etl.contract import Column, Contract

POSTS = Contract(
    name="x_posts",
    version=1,
    key=("post_id",),
    columns=(
        Column("username", "string", "who wrote it", pattern="[A-Za-z0-9_]{1,15}"),
        Column("text", "string", "the whole text: of a long post its note, of a retweet the other post's"),
        Column("like_count", "integer", "likes when it was read", least=0),
        Column("retweet_count", "integer", "retweets when it was read", least=0),
        Column("created_at", "timestamp", "when it was posted, within the day"),
        Column("post_id", "string", "X's id", pattern="[0-9]{1,19}"),
        Column("lang", "string", "the language that X takes it for, or `und`"),
        Column("fetched_at", "timestamp", "when it was read"),
    ),
)
