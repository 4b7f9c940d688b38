-- A shop during a sale. The database itself takes from the stock, keeps the day's totals and
-- raises alerts; every change is published on `shop.…`.
CREATE SCHEMA IF NOT EXISTS demo;

CREATE TABLE IF NOT EXISTS public.products (
    id       integer PRIMARY KEY,
    name     text NOT NULL,
    price    numeric(8, 2) NOT NULL,
    stock    integer NOT NULL CHECK (stock >= 0),
    capacity integer NOT NULL
);

CREATE TABLE IF NOT EXISTS public.orders (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id integer NOT NULL REFERENCES public.products,
    product    text NOT NULL,
    quantity   integer NOT NULL CHECK (quantity > 0),
    total      numeric(10, 2) NOT NULL,
    customer   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.sales (
    day     date PRIMARY KEY DEFAULT current_date,
    orders  bigint NOT NULL,
    revenue numeric(12, 2) NOT NULL
);

CREATE TABLE IF NOT EXISTS public.shoppers (
    id      integer PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS shoppers_seen_at ON public.shoppers (seen_at);

CREATE TABLE IF NOT EXISTS public.alerts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL,
    product_id integer NOT NULL REFERENCES public.products,
    message    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

SELECT bellwether.attach('public.orders', topic => 'shop.orders', event => 'placed', ops => '{insert}'),
    bellwether.attach('public.products', topic => 'shop.stock', event => 'changed', ops => '{update}'),
    bellwether.attach('public.sales', topic => 'shop.sales', event => 'counted', ops => '{insert,update}'),
    bellwether.attach('public.alerts', topic => 'shop.alerts', event => 'raised', ops => '{insert}');

-- Products, and an hour of orders as it might have been, once. Before the triggers below, which
-- would take all of it from the stock.
DO $$
BEGIN
    IF EXISTS (SELECT FROM public.products) THEN
        RETURN;
    END IF;
    INSERT INTO public.products (id, name, price, stock, capacity) VALUES
        (1, 'Enamel mug', 14.00, 46, 60), (2, 'Wool blanket', 89.00, 17, 30),
        (3, 'Desk lamp', 49.50, 33, 40), (4, 'Field notebook', 9.90, 71, 90),
        (5, 'Steel kettle', 62.00, 12, 30), (6, 'Canvas tote', 19.00, 54, 70),
        (7, 'Wall clock', 38.00, 21, 35), (8, 'Oak stool', 119.00, 13, 20),
        (9, 'Linen apron', 34.00, 28, 40), (10, 'Pepper mill', 27.50, 39, 50);
    PERFORM setseed(0.4); -- the same for everybody
    INSERT INTO public.orders (product_id, product, quantity, total, customer, created_at)
    WITH drawn AS (
        SELECT n, least(random(), random()) AS liking, random() AS appetite, random() AS who,
            sum(-ln(1 - random()) / (0.8 + n / 5000.0 + sin(n / 150.0) / 8)) OVER (ORDER BY n) AS since
        FROM generate_series(1, 2000) AS n
    )
    SELECT products.id, products.name, quantity, products.price * quantity,
        (ARRAY['Amara', 'Bo', 'Chen', 'Dilek', 'Elif', 'Farid', 'Greta', 'Hugo', 'Ines', 'Jun'])[1 + floor(who * 10)],
        now() - interval '1 hour' * (1 - since / (SELECT max(since) FROM drawn))
    FROM drawn, LATERAL (SELECT (ARRAY[1, 1, 1, 1, 2, 2, 3])[1 + floor(appetite * 7)] AS quantity) AS wanted
    JOIN public.products ON true
    WHERE products.id = (ARRAY[1, 4, 6, 5, 10, 9, 3, 7, 2, 8])[1 + floor(liking * 10)]
    ORDER BY n;
    INSERT INTO public.shoppers (id, seen_at)
    SELECT n, now() - interval '1 second' * (n * 7919 % 900) FROM generate_series(1, 400) AS n;
    INSERT INTO public.sales (orders, revenue) SELECT count(*), sum(total) FROM public.orders;
END $$;

-- What is ordered is taken from the stock, or the order fails.
CREATE OR REPLACE FUNCTION demo.take_from_stock() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.products SET stock = stock - NEW.quantity
    WHERE id = NEW.product_id AND stock >= NEW.quantity
    RETURNING name, price * NEW.quantity INTO NEW.product, NEW.total;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there are not % of product % left', NEW.quantity, NEW.product_id
            USING ERRCODE = 'check_violation', HINT = 'Order fewer, or wait for the next delivery.';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER take_from_stock BEFORE INSERT ON public.orders
FOR EACH ROW EXECUTE FUNCTION demo.take_from_stock();

CREATE OR REPLACE FUNCTION demo.count_sales() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.sales (orders, revenue)
    SELECT count(*), sum(total) FROM rows HAVING count(*) > 0
    ON CONFLICT (day) DO UPDATE
    SET orders = sales.orders + EXCLUDED.orders, revenue = sales.revenue + EXCLUDED.revenue;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER sales AFTER INSERT ON public.orders
REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION demo.count_sales();

-- An alert when the stock falls below 10, and when it is back.
CREATE OR REPLACE FUNCTION demo.watch_stock() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    low CONSTANT integer := 10;
BEGIN
    INSERT INTO public.alerts (kind, product_id, message)
    SELECT 'low_stock', rows.id, format('%s: only %s left', rows.name, rows.stock)
    FROM rows JOIN before USING (id) WHERE before.stock >= low AND rows.stock < low
    UNION ALL
    SELECT 'restocked', rows.id, format('%s: %s in stock again', rows.name, rows.stock)
    FROM rows JOIN before USING (id) WHERE before.stock < low AND rows.stock >= low;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER watch_stock AFTER UPDATE ON public.products
REFERENCING OLD TABLE AS before NEW TABLE AS rows
FOR EACH STATEMENT EXECUTE FUNCTION demo.watch_stock();

-- Everything a page needs to begin with.
CREATE OR REPLACE FUNCTION demo.take_inventory() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    SELECT bellwether.publish('shop.inventory', 'inventory', retain => true, data => json_build_object(
        'products', (SELECT json_agg(products ORDER BY id) FROM public.products),
        'sales', (SELECT row_to_json(sales) FROM public.sales ORDER BY day DESC LIMIT 1),
        'shoppers', (SELECT count(*) FROM public.shoppers WHERE seen_at > now() - interval '5 minutes')));
$$;
