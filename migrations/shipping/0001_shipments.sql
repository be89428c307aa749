create table shipments (
    order_id uuid primary key,
    -- 1 barred, 2 booking, 3 booked, 4 failed
    status smallint not null check (status between 1 and 4),
    tracking_ref text,
    reason text,                    -- code@service
    version int not null,
    said int not null,
    updated_at timestamptz not null default now(),
    check ((status = 3) = (tracking_ref is not null))
) with (fillfactor = 85);
