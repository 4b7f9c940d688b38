//! Customers during a sale, and the van that brings what they have bought.

use pg::Database;
use std::time::Duration;
use tokio::time;

use super::{again, at_random, choose};

const CUSTOMERS: [&str; 12] = [
    "Amara", "Bo", "Chen", "Dilek", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jun", "Kofi", "Lena",
];

/// Products in the order of how much they are liked.
const LIKED: [i32; 10] = [1, 4, 6, 5, 10, 9, 3, 7, 2, 8];

/// Customers who come back now and then.
const SHOPPERS: i32 = 400;

/// Mean time between two of them who look around.
const LOOKS: Duration = Duration::from_millis(1_600);
/// Mean time between two orders.
const ORDERS: Duration = Duration::from_millis(1_500);
/// Between two deliveries.
const DELIVERIES: Duration = Duration::from_secs(40);
/// Between two inventories, with which a page begins.
const INVENTORIES: Duration = Duration::from_secs(5);

pub(super) async fn run(database: &Database) {
    let orders = again(
        database,
        || at_random(ORDERS, fastrand::f64()),
        async |tables| {
            // The least of two draws: some things sell out while others lie there.
            let likes = || fastrand::usize(..LIKED.len());
            let product = LIKED[likes().min(likes())];
            let quantity = choose(&[1, 1, 1, 1, 2, 2, 3]);
            tables.order(product, quantity, choose(&CUSTOMERS)).await
        },
    );
    let looks = again(
        database,
        || at_random(LOOKS, fastrand::f64()),
        async |tables| tables.browse(fastrand::i32(1..=SHOPPERS)).await,
    );
    let deliveries = async {
        time::sleep(DELIVERIES).await;
        again(
            database,
            || DELIVERIES,
            async |tables| tables.restock().await,
        )
        .await;
    };
    let inventories = again(
        database,
        || INVENTORIES,
        async |tables| tables.take_inventory().await,
    );
    tokio::join!(orders, looks, deliveries, inventories);
}
