(function () {
  "use strict";
  var data = JSON.parse(document.getElementById("data").textContent), law = data.law;
  var shapes = data.shapes.map(function (s) { return { name: s[0], N: s[1], params: s[2], perToken: s[3], context: s[4] }; });
  function get(id) { return document.getElementById(id); }

  // The law, as scaling.fitting and scaling.laws have it: log losses of the forms by weight, and the local correction.
  function correction(n, d) {
    var local = law.local;
    if (!local) return 0;
    var x = Math.log(n), z = Math.log(d), low = Infinity, high = -Infinity, sum = 0;
    local.x.forEach(function (at) { low = Math.min(low, at); high = Math.max(high, at); });
    if (!(x > low - local.reach && x < high + local.reach)) return 0;
    for (var i = 0; i < local.x.length; i++) {
      var dx = x - local.x[i], dz = z - local.z[i];
      var kernel = local.near * Math.exp(-0.5 * (dx * dx + dz * dz) / (local.length * local.length));
      if (Math.abs(dx) < local.equal) kernel += local.same;
      sum += kernel * local.c[i];
    }
    return sum;
  }
  function effective(n, d, unique) {
    if (unique === null || d <= unique * (1 + 1e-9)) return [n, d];
    var r = law.repetition, base = Math.min(n, unique / law.perParam);
    return [base * (1 - r.R_N * Math.expm1(-(n / base - 1) / r.R_N)), unique * (1 - r.R_D * Math.expm1(-(d / unique - 1) / r.R_D))];
  }
  function lossAt(n, d, unique) {
    var at = effective(n, d, unique), total = correction(at[0], at[1]);
    law.forms.forEach(function (form) {
      var size = form.variable === "C" ? 6 * at[0] * at[1] : at[0];
      var inner = form.A * Math.pow(size, -form.alpha) + form.B * Math.pow(at[1], -form.beta);
      total += form.weight * Math.log(form.E + Math.pow(inner, form.gamma));
    });
    return Math.exp(total);
  }
  function half(value) { // to the nearest, ties to even, as Python and numpy round
    var floor = Math.floor(value), rest = value - floor;
    return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
  }
  function evaluate(ask) {
    return shapes.map(function (shape) {
      var serving = shape.perToken / 3 * ask.served, counted = ask.includes ? serving : 0;
      var tokens = (ask.flops - counted) / shape.perToken, feasible = tokens >= data.shortest * shape.context;
      var whole = half(Math.max(tokens, 1));
      return {
        shape: shape, feasible: feasible, tokens: whole, flops: shape.perToken * tokens, serving: serving,
        loss: feasible ? lossAt(shape.N, whole, ask.unique) : Infinity
      };
    });
  }

  // Text
  function number(value, digits) {
    var units = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
    if (value >= 1e15) return value.toExponential(2).replace("e+", "e");
    for (var i = 0; i < units.length; i++) if (value >= units[i][0]) return Number((value / units[i][0]).toPrecision(digits || 3)) + units[i][1];
    return String(Number(value.toPrecision(digits || 3)));
  }
  function money(value) { return value < 10 ? value.toFixed(2) : Math.round(value).toLocaleString("en-US"); }
  function typed(text) {
    var match = /^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmbt%]?)\s*$/i.exec(text);
    if (!match) return NaN;
    return Number(match[1]) * { "": 1, k: 1e3, m: 1e6, b: 1e9, t: 1e12, "%": 0.01 }[match[2].toLowerCase()];
  }

  // Controls: a slider in logarithms (MFU: plain) beside a text that takes any value.
  var start = data.byTime ? data.hours : data.flops;
  var controls = {
    flops: { low: start / 1000, high: start * 1000, value: data.flops, show: function (v) { return Number(v.toPrecision(4)).toExponential().replace("e+", "e"); } },
    hours: { low: start / 100, high: start * 100, value: data.hours, show: function (v) { return String(Number(v.toPrecision(4))); } },
    mfu: { low: 0.05, high: 0.8, value: data.mfu, plain: true, show: function (v) { return String(Number(v.toPrecision(3))); } },
    unique: { low: 1e8, high: 1e14, value: data.unique, none: "all", show: number },
    served: { low: 1e8, high: 1e15, value: data.served || null, none: "0", show: number }
  };
  Object.keys(controls).forEach(function (id) {
    var control = controls[id], range = get(id + "-range"), text = get(id);
    if (!text) { delete controls[id]; return; }
    function span(v) { return control.plain ? v : Math.log(v); }
    control.place = function () {
      var v = control.value;
      range.value = v === null ? (control.none === "all" ? 1000 : 0) : Math.round(1000 * (span(v) - span(control.low)) / (span(control.high) - span(control.low)));
    };
    control.write = function () { text.value = control.value === null ? control.none : control.show(control.value); };
    range.addEventListener("input", function () {
      var at = Number(range.value), v = span(control.low) + at / 1000 * (span(control.high) - span(control.low));
      control.value = control.none && at === (control.none === "all" ? 1000 : 0) ? null : control.plain ? v : Math.exp(v);
      control.bad = false;
      control.write();
      update();
    });
    text.addEventListener("input", function () {
      var words = text.value.trim(), v = words === control.none || (control.none && words === "") ? null : typed(words);
      if (control.none === "0" && v === 0) v = null;
      control.bad = v !== null && !(isFinite(v) && v > 0 && (!control.plain || v <= 1));
      if (!control.bad) { control.value = v; control.place(); }
      update();
    });
    text.addEventListener("change", function () { if (!control.bad) text.value = text.value.trim() || control.none || ""; });
    control.place();
    control.write();
  });
  get("includes").checked = data.includes;
  get("includes").addEventListener("change", update);
  get("controls").addEventListener("submit", function (e) { e.preventDefault(); });
  get("nats").textContent = data.nats;

  function fill(parent, tag, texts) {
    parent.textContent = "";
    texts.forEach(function (text) { var cell = document.createElement(tag); cell.textContent = text; parent.appendChild(cell); });
  }
  function problem(text) { get("problem").hidden = !text; get("problem").textContent = text || ""; }

  function update() {
    var wrong = Object.keys(controls).filter(function (id) { return controls[id].bad; });
    if (wrong.length) { problem(get(wrong[0]).value + " is no number here: write it like 1e21, 300B or 0.4"); return; }
    var device = data.device, mfu = controls.mfu ? controls.mfu.value : null;
    var rate = device ? device.peak * mfu : null, hours = controls.hours ? controls.hours.value : null;
    var ask = {
      flops: hours === null ? controls.flops.value : hours * 3600 * device.count * rate,
      unique: controls.unique.value, served: controls.served.value || 0, includes: get("includes").checked
    };
    var found = evaluate(ask), best = null;
    found.forEach(function (one) { if (one.feasible && (!best || one.loss < best.loss)) best = one; });
    if (!best) { problem("Nothing is affordable: the budget leaves no candidate " + data.shortest + " sequences."); return; }
    problem("");
    var seconds = function (flops) { return rate ? flops / rate : null; };
    var dollars = function (flops) { return data.price && rate ? data.price * flops / rate / 3600 : null; };
    var tiles = [
      [number(best.shape.params), "parameters"], [number(best.tokens), "training tokens"],
      [best.loss.toFixed(4), "expected loss, nats per token"], [Math.exp(best.loss).toFixed(2), "perplexity"],
      [number(best.flops), "FLOPs of training"]
    ];
    if (ask.unique !== null) tiles.push([number(best.tokens / ask.unique), "epochs"]);
    if (rate) tiles.push([number(seconds(best.flops) / device.count / 3600), "hours on " + device.count + " × " + device.name]);
    if (data.price && rate) tiles.push(["$" + money(dollars(best.flops)), "training at " + data.price + " USD/device-hour (" + data.priceSource + ")"]);
    if (ask.served) tiles.push([number(best.serving), "FLOPs of serving"]);
    if (ask.served && data.price && rate) tiles.push(["$" + money(dollars(best.serving)), "serving at the same MFU"]);
    var board = get("tiles");
    board.textContent = "";
    tiles.forEach(function (tile) {
      var box = document.createElement("div");
      fill(box, "b", [tile[0]]);
      var label = document.createElement("span");
      label.textContent = tile[1];
      box.appendChild(label);
      board.appendChild(box);
    });
    get("lead").textContent = best.shape.name + " on " + number(best.tokens) + " tokens: expected loss " + best.loss.toFixed(4) + ".";
    var near = found.filter(function (one) { return one.feasible && one.loss <= best.loss + data.nats; });
    var result = document.documentElement.dataset;
    result.member = best.shape.name;
    result.tokens = String(best.tokens);
    result.loss = String(best.loss);
    result.flops = String(best.flops);
    result.serving = String(best.serving);
    result.hours = rate ? String(seconds(best.flops) / device.count / 3600) : "";
    result.usd = dollars(best.flops) === null ? "" : String(dollars(best.flops));
    fill(get("head"), "th", ["member", "parameters", "tokens", "loss", "above the best", "FLOPs/token served"]);
    get("head").cells[0].className = "t";
    var rows = get("rows"), every = Math.ceil(near.length / 9);
    rows.textContent = "";
    near.filter(function (one, i) { return i % every === 0 || one === best; }).forEach(function (one) {
      var row = document.createElement("tr");
      fill(row, "td", [one.shape.name, number(one.shape.params), number(one.tokens), one.loss.toFixed(4),
        one === best ? "the best" : "+" + (one.loss - best.loss).toFixed(4), number(one.shape.perToken / 3)]);
      row.cells[0].className = "t";
      rows.appendChild(row);
    });
    var words = ["scaling plan"];
    words.push("--budget '" + (hours === null ? ask.flops : hours + "h on " + device.count + "x" + device.name) + "'");
    if (hours === null && device) words.push("--on " + device.count + "x" + device.name);
    if (device) words.push("--mfu " + mfu);
    if (ask.unique !== null) words.push("--tokens-available " + ask.unique);
    if (ask.served) words.push("--inference-tokens " + ask.served);
    if (ask.served && ask.includes) words.push("--budget-includes-serving");
    if (data.options) words.push(data.options);
    get("command").textContent = words.join(" ");
    drawn = [found.filter(function (one) { return one.feasible; }), near, best];
    draw.apply(null, drawn);
  }
  var drawn = null;
  window.addEventListener("resize", function () { if (drawn) draw.apply(null, drawn); });

  // Chart: loss against parameters, both in logarithms.
  function node(tag, attributes, text) {
    var made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function draw(found, near, best) {
    var chart = get("chart"), width = Math.max(300, chart.parentNode.clientWidth), height = Math.min(380, Math.max(260, width / 2));
    chart.setAttribute("viewBox", "0 0 " + width + " " + height);
    var left = 50, right = width - 12, top = 14, bottom = height - 46;
    var low = best.shape.params / 14, high = best.shape.params * 14;
    var shown = found.filter(function (one) { return one.shape.params >= low && one.shape.params <= high; });
    low = Math.min.apply(null, shown.map(function (one) { return one.shape.params; })) / 1.05;
    high = Math.max.apply(null, shown.map(function (one) { return one.shape.params; })) * 1.05;
    var worst = Math.min(best.loss * 1.35, Math.max.apply(null, shown.map(function (one) { return one.loss; })));
    worst = Math.max(worst, best.loss * 1.02);
    var floor = best.loss - 0.06 * (worst - best.loss);
    function x(v) { return left + (right - left) * Math.log(v / low) / Math.log(high / low); }
    function y(v) { return bottom - (bottom - top) * (v - floor) / (worst - floor); }
    chart.textContent = "";
    var step = Math.pow(10, Math.floor(Math.log10(worst - floor))), ticks = (worst - floor) / step;
    step *= ticks < 2 ? 0.25 : ticks < 5 ? 0.5 : 1;
    for (var v = Math.ceil(floor / step) * step; v <= worst; v += step) {
      chart.appendChild(node("line", { x1: left, x2: right, y1: y(v), y2: y(v), "class": "grid" }));
      chart.appendChild(node("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, String(Number(v.toPrecision(4)))));
    }
    for (var power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) (width < 480 ? [1] : [1, 3]).forEach(function (m) {
      var at = m * Math.pow(10, power);
      if (at < low || at > high) return;
      chart.appendChild(node("line", { x1: x(at), x2: x(at), y1: top, y2: bottom, "class": "grid" }));
      chart.appendChild(node("text", { x: x(at), y: bottom + 18, "text-anchor": "middle" }, number(at)));
    });
    var edge = Math.max(top, y(best.loss + data.nats));
    chart.appendChild(node("rect", { x: left, width: right - left, y: edge, height: Math.max(0, y(best.loss) - edge), "class": "band" }));
    var path = shown.filter(function (one) { return one.loss <= worst; }).map(function (one, i) { return (i ? "L" : "M") + x(one.shape.params).toFixed(1) + " " + y(one.loss).toFixed(1); });
    chart.appendChild(node("path", { d: path.join(""), "class": "curve" }));
    chart.appendChild(node("line", { x1: left, x2: right, y1: bottom, y2: bottom, "class": "axis" }));
    near.forEach(function (one) { chart.appendChild(node("circle", { cx: x(one.shape.params), cy: y(one.loss), r: 3.4, "class": "near" })); });
    chart.appendChild(node("circle", { cx: x(best.shape.params), cy: y(best.loss), r: 7, "class": "best" }));
    var named = Math.min(right - 75, Math.max(left + 75, x(best.shape.params)));
    chart.appendChild(node("text", { x: named, y: top + 14, "text-anchor": "middle", "class": "name" }, best.shape.name));
    chart.appendChild(node("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, "parameters"));
  }
  get("static").hidden = true;
  get("live").hidden = false;
  update();
})();
