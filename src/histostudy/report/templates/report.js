"use strict";
(() => {
  const table = document.getElementById("slide-table");
  if (table) {
    const body = table.tBodies[0];
    const search = document.getElementById("slide-search");
    const status = document.getElementById("slide-status");
    const shown = document.getElementById("slide-count");
    const rows = Array.from(body.rows, (row) => ({ row, text: row.textContent.toLowerCase() }));

    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let n = 0;
      for (const { row, text } of rows) {
        const keep = (!status.value || row.dataset.status === status.value) && words.every((w) => text.includes(w));
        row.hidden = !keep;
        n += keep;
      }
      shown.textContent = n === rows.length ? `${n} slides` : `${n} of ${rows.length} slides`;
    };
    search.addEventListener("input", filter);
    status.addEventListener("change", filter);

    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const header = button.parentElement;
      const up = header.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const column = Number(button.dataset.column);
      const numeric = "numeric" in button.dataset;
      const key = ({ row }) => {
        const cell = row.cells[column];
        return numeric ? cell.dataset.sort : cell.textContent;
      };
      const compare = numeric
        ? (a, b) => Number(a) - Number(b)
        : (a, b) => a.localeCompare(b, "en", { numeric: true });
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last either way
        return up ? compare(x, y) : compare(y, x);
      });
      body.append(...rows.map(({ row }) => row));
    });
  }

  const links = new Map(Array.from(document.querySelectorAll("nav a"), (a) => [a.hash.slice(1), a]));
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "0px 0px -70% 0px" });
    for (const id of links.keys()) watch.observe(document.getElementById(id));
  }
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
