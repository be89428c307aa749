-- The textbook's outbox: a message stays, and says when it was published.
create table if not exists outbox_messages (
    id uuid primary key,
    subject uuid not null,
    version int not null,
    type text not null,
    headers bytea not null,
    body bytea not null,
    created_at timestamptz not null default now(),
    published_at timestamptz
);
create index if not exists outbox_messages_unpublished on outbox_messages (id)
    where published_at is null;
