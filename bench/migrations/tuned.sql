-- The tuned outbox: a message that is published is deleted, and vacuum keeps up with that.
create table if not exists outbox_messages (
    id uuid primary key,
    subject uuid not null,
    version int not null,
    type text not null,
    headers bytea not null,
    body bytea not null,
    created_at timestamptz not null default now()
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);
