// What the dashboards share: a connection that shows itself in the badge, and tells of gaps.

import { connect } from "/bellwether.js";
import "/components/connection-badge.js";

export function live(topics, last, options = {}) {
  const connection = connect(topics, { last, ...options });
  document.querySelector("connection-badge").connection = connection;
  connection.addEventListener("gap", () => {
    const notice = document.getElementById("gap");
    notice.textContent = "Some of what happened while this page was away is not kept any more.";
    notice.hidden = false;
  });
  return connection;
}
