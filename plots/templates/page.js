(function () {
  "use strict";
  var tip = document.getElementById("tip"), held = null;
  function place(x, y) {
    tip.hidden = false;
    var w = tip.offsetWidth, h = tip.offsetHeight;
    tip.style.left = Math.max(6, Math.min(x + 12, innerWidth - w - 6)) + "px";
    tip.style.top = (y + 14 + h > innerHeight ? Math.max(6, y - h - 10) : y + 14) + "px";
  }
  function show(point, x, y) { tip.textContent = point.getAttribute("aria-label"); place(x, y); }
  function hide() { if (!held) tip.hidden = true; }
  document.querySelectorAll(".pt").forEach(function (point) {
    var title = point.querySelector("title");
    point.setAttribute("aria-label", title.textContent);
    point.setAttribute("role", "img");
    point.setAttribute("tabindex", "0");
    title.remove();
    point.addEventListener("pointerenter", function (e) { held = null; show(point, e.clientX, e.clientY); });
    point.addEventListener("pointerleave", hide);
    point.addEventListener("focus", function () {
      var box = point.getBoundingClientRect();
      show(point, box.right, box.bottom);
    });
    point.addEventListener("blur", function () { held = null; hide(); });
    point.addEventListener("click", function (e) { held = point; show(point, e.clientX, e.clientY); e.stopPropagation(); });
  });
  document.addEventListener("click", function () { held = null; hide(); });
  document.addEventListener("keydown", function (e) { if (e.key === "Escape") { held = null; hide(); } });
  document.querySelectorAll("table.sort").forEach(function (table) {
    var heads = Array.from(table.tHead.rows[0].cells), body = table.tBodies[0];
    heads.forEach(function (head, column) {
      if (!head.textContent) return;
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.appendChild(button);
      button.addEventListener("click", function () {
        var up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        var rows = Array.from(body.rows);
        rows.sort(function (a, b) {
          var p = a.cells[column].dataset.v, q = b.cells[column].dataset.v;
          var d = p !== undefined && q !== undefined ? p - q
            : a.cells[column].textContent.localeCompare(b.cells[column].textContent, undefined, { numeric: true });
          return up ? d : -d;
        });
        rows.forEach(function (row) { body.appendChild(row); });
      });
    });
  });
})();
