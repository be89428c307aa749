create table stock (
    sku text primary key,
    available bigint not null check (available >= 0)
) with (fillfactor = 50);

create table reservations (
    order_id uuid primary key,
    -- 1 barred, 2 reserved, 3 rejected, 4 released
    status smallint not null check (status between 1 and 4),
    held bytea,                     -- units by SKU, while they are held
    reason text,                    -- code@service
    version int not null,
    said int not null,
    updated_at timestamptz not null default now(),
    check ((status = 2) = (held is not null))
) with (fillfactor = 85);

-- Every change of the stock by hand: their sum is what there ever was of a SKU.
create table stock_changes (
    change_id uuid primary key,
    sku text not null,
    delta bigint not null,
    available bigint not null,
    created_at timestamptz not null default now()
);
create index on stock_changes (sku);
