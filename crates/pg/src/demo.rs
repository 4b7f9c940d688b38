//! The tables of the demos. For the private database only, like [`EventsTable`](crate::EventsTable).

use tokio_postgres::{Client, types::ToSql};

use crate::{Database, Error, schema};

/// What a demo shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Figures of a site, from the table `events`.
    Analytics,
    /// Orders, stock and alerts.
    Shop,
    /// Monitors of several organisations.
    Uptime,
}

impl Scene {
    /// Makes its tables, with an hour of past in them, if they do not exist yet.
    pub async fn create(self, database: &Database) -> Result<(), Error> {
        let script = match self {
            Self::Analytics => include_str!("../../../sql/demo/analytics.sql"),
            Self::Shop => include_str!("../../../sql/demo/shop.sql"),
            Self::Uptime => include_str!("../../../sql/demo/uptime.sql"),
        };
        let client = database.connect().await?;
        schema::lock(&client).await?;
        let made = client.batch_execute(script).await;
        made.map_err(|error| Error::Query("create the demo's tables", error))
    }
}

/// A connection on which something happens in the tables of the demos.
#[derive(Debug)]
pub struct Tables {
    client: Client,
}

impl Tables {
    /// Connects.
    pub async fn connect(database: &Database) -> Result<Self, Error> {
        let client = database.connect().await?;
        Ok(Self { client })
    }

    /// A visitor did something; `properties` is JSON.
    pub async fn visit(&self, name: &str, properties: &str) -> Result<(), Error> {
        let insert = "INSERT INTO public.events (name, properties) VALUES ($1, $2::text::jsonb)";
        self.execute(insert, &[&name, &properties]).await
    }

    /// Counts the visits since the last time.
    pub async fn take_snapshot(&self) -> Result<(), Error> {
        self.execute("SELECT demo.take_snapshot()", &[]).await
    }

    /// Orders something, if there is enough of it.
    pub async fn order(&self, product: i32, quantity: i32, customer: &str) -> Result<(), Error> {
        let insert = "INSERT INTO public.orders (product_id, quantity, customer)
            SELECT id, $2, $3 FROM public.products WHERE id = $1 AND stock >= $2";
        self.execute(insert, &[&product, &quantity, &customer])
            .await
    }

    /// A customer looks around.
    pub async fn browse(&self, shopper: i32) -> Result<(), Error> {
        let upsert = "INSERT INTO public.shoppers (id) VALUES ($1)
            ON CONFLICT (id) DO UPDATE SET seen_at = now()";
        self.execute(upsert, &[&shopper]).await
    }

    /// Fills the shelf that is emptiest.
    pub async fn restock(&self) -> Result<(), Error> {
        let update = "UPDATE public.products SET stock = capacity WHERE id = (
            SELECT id FROM public.products ORDER BY stock::real / capacity LIMIT 1)";
        self.execute(update, &[]).await
    }

    /// Publishes what the shop has.
    pub async fn take_inventory(&self) -> Result<(), Error> {
        self.execute("SELECT demo.take_inventory()", &[]).await
    }

    /// A monitor was probed.
    pub async fn probe(&self, monitor: i32, is_ok: bool, latency_ms: i32) -> Result<(), Error> {
        let insert =
            "INSERT INTO public.probes (monitor_id, is_ok, latency_ms) VALUES ($1, $2, $3)";
        self.execute(insert, &[&monitor, &is_ok, &latency_ms]).await
    }

    /// Publishes how each organisation's monitors are.
    pub async fn summarise(&self) -> Result<(), Error> {
        self.execute("SELECT demo.summarise()", &[]).await
    }

    async fn execute(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        let done = self.client.execute(sql, values).await;
        done.map_err(|error| Error::Query("let something happen in the demo", error))?;
        Ok(())
    }
}
