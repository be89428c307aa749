create table orders (
    order_id uuid primary key,
    caller text not null,
    customer_id text not null,
    lines bytea not null,
    amount_minor bigint not null,
    currency text not null,
    payment_method text not null,
    ship_to bytea not null,
    -- 1 pending, 2 cancelling, 3 confirmed, 4 confirmed although a cancel was on its way,
    -- 5 cancelled
    status smallint not null check (status between 1 and 5),
    reason text,                    -- code@service
    version int not null,
    said int not null,
    deadline_at timestamptz not null,   -- set once: the index on it keeps updates HOT
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((status in (2, 5)) = (reason is not null))
) with (fillfactor = 85);
create index on orders (deadline_at);

-- The read model: what every service has said about an order. Its primary key is its inbox.
create table timeline (
    order_id uuid,
    event_id uuid,
    service text not null,
    version int,
    type text not null,
    cause uuid,
    at timestamptz not null,
    body bytea not null,
    primary key (order_id, event_id)
);
