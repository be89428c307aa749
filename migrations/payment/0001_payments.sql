create table payments (
    order_id uuid primary key,
    -- 1 barred, 2 capturing, 3 turning, 4 captured, 5 refunding, 6 declined, 7 refunded
    status smallint not null check (status between 1 and 7),
    amount_minor bigint,            -- null where no money is or was about to be taken
    currency text,
    payment_method text,
    ship_to bytea,                  -- only while it has to be passed on
    provider_ref text,
    reason text,                    -- code@service
    version int not null,
    said int not null,
    updated_at timestamptz not null default now(),
    check (status in (1, 6, 7) or amount_minor is not null)
) with (fillfactor = 85);
