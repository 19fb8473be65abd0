"""Posts of X users, one UTC day at a time: read from X once, kept raw, published as CSV.

Below the destination, a folder or a bucket:

    raw/x/users/dt=2026-11-21/ada-on-2026-11-22-users-1.jsonl.gz
        what X said of a username
    raw/x/posts/dt=2026-11-21/user_id=1/page-0001-on-2026-11-22-posts-100.jsonl.gz
        each page as it came, before the next
    raw/x/reserved/dt=2026-11-21/user_id=1/…
        what a reader may still buy
    curated/x/posts/dt=2026-11-21/user_id=1/posts.csv
        one user's clean posts
    curated/x/posts/dt=2026-11-21/_manifest.json
        written last: the day is whole
    curated/x/bill/month=2026-11.csv
        what X charged in a month, by day and user

The names of raw objects say when they were bought, and how many posts or users X charged. The raw pages are the
checkpoint: what was stored is never requested again, so an interrupted run resumes after its last page, and running
a day again costs nothing and gives the same bytes.

tweepy knows X: its endpoints, its parameters, and how a request is signed. We add what tweepy leaves to its users:
base URL and timeouts, what each refusal means and whether it is transient, which of X's two sets of field
names to use, and how often to retry.
"""
