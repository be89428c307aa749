-- Events that were put into the outbox again: how far back, who wanted it and why.
create table republishes (
    id bigint generated always as identity primary key,
    since timestamptz not null,
    until timestamptz not null,
    events bigint not null default 0,   -- put there so far
    reason text not null,
    asked_by text not null,
    asked_at timestamptz not null default now(),
    finished_at timestamptz             -- null: under way, or it broke off
);
