"""The fields of posts and users, under the names of both dialects."""

from __future__ import annotations

NEWER_NAMES = {
    "note_tweet": "note_post",
    "edit_history_tweet_ids": "edit_history_post_ids",
    "referenced_tweets": "referenced_posts",
    "retweet_count": "repost_count",
}
DEFAULT_FIELDS = {"id", "text", "edit_history_tweet_ids"}
POST_FIELDS = DEFAULT_FIELDS | {"created_at", "author_id", "conversation_id", "lang", "public_metrics", "note_tweet"}
# Known to the real API, and never filled here.
BARREN_FIELDS = {
    *["article", "attachments", "context_annotations", "display_text_range", "edit_controls", "entities", "geo"],
    *["in_reply_to_user_id", "media_metadata", "possibly_sensitive", "reply_settings", "source", "withheld"],
    *["card_uri", "community_id", "scopes"],
}
USER_FIELDS = {"id", "name", "username", "created_at", "protected", "public_metrics", "description", "verified"}
BARREN_USER_FIELDS = {
    *["affiliation", "connection_status", "entities", "is_identity_verified", "location", "parody"],
    *["most_recent_post_id", "most_recent_tweet_id", "pinned_post_id", "pinned_tweet_id", "profile_banner_url"],
    *["profile_image_url", "receives_your_dm", "subscription", "subscription_type", "url", "verified_followers_count"],
    *["verified_type", "withheld"],
}


def shown(post: dict, asked: set[str], newer: dict[str, str], dialect: str) -> dict:
    """The asked fields of a post under the names of a dialect; what is empty is left out."""
    found = {newer.get(name, name): value for name, value in post.items() if newer.get(name, name) in asked}
    if newer and dialect != "mixed" and "public_metrics" in found:
        found["public_metrics"] = {newer.get(name, name): value for name, value in found["public_metrics"].items()}
    return {name: value for name, value in found.items() if value not in (None, "", [], {})}
