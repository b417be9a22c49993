// The turn on the first page: a histogram that follows a vector from where it is to its channel. The data (TURN, made
// by rotate_core/explorer/turn.py) stands before this script, the controls in its place are plain HTML inputs.
(() => {
  const root = document.currentScript.parentElement;
  const { neurons, normal } = TURN;
  const find = (selector) => root.querySelector(selector);
  const svg = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const HEIGHT = 270, FOOT = 22, ROW = 19, MARGIN = 6;
  const SECONDS = { there: 4, hold: 2.5, back: 0.6 };
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const plot = find(".turn-plot"), dial = find(".turn-dial"), slider = find("input[type=range]");
  const play = find(".turn-play"), random = find("input[type=checkbox]");
  let chosen = 0, playing = !still.matches, seen = true, clock = 0, last = 0, step = 1;

  // Where a value lies between two of the points that were computed.
  const between = (values, t) => {
    const at = t * (values.length - 1), i = Math.min(Math.floor(at), values.length - 2);
    return values[i] + (values[i + 1] - values[i]) * (at - i);
  };
  const exhibit = () => neurons[chosen][random.checked ? "random" : "neuron"];

  // One axis for a neuron and its random vector, so that the toggle compares.
  function scale() {
    const both = [neurons[chosen].neuron, neurons[chosen].random];
    const lows = both.flatMap((one) => one.histogram.map((h) => h.from));
    const highs = both.flatMap((one) => one.histogram.map((h) => h.from + h.step * h.counts.length));
    step = both[0].histogram[0].step;
    const low = Math.min(...lows) - 2, high = Math.max(...highs) + 2;
    const width = plot.clientWidth || 600, most = Math.log10(1 + 1.6 * Math.max(...normal));
    return {
      low, high, width,
      x: (z) => MARGIN + ((z - low) / (high - low)) * (width - 2 * MARGIN),
      y: (count) => HEIGHT - FOOT - (Math.log10(1 + count) / most) * (HEIGHT - FOOT - MARGIN),
    };
  }

  function bars(histogram, { x, y }, threshold, beyond) {
    let path = "";
    histogram.forEach(({ z, count }) => {
      if (count > 0 && Math.abs(z + step / 2) > threshold === beyond)
        path += `M${x(z)},${y(0)}V${y(count)}H${x(z + step)}V${y(0)}Z`;
    });
    return path;
  }

  // The counts at t, in the logarithm, since that is what is drawn.
  function counts(one, t) {
    const at = t * (one.histogram.length - 1), i = Math.min(Math.floor(at), one.histogram.length - 2);
    const [a, b] = [one.histogram[i], one.histogram[i + 1]];
    const height = (h, z) => Math.log1p(h.counts[Math.round((z - h.from) / step)] || 0);
    const end = Math.max(a.from + a.counts.length * step, b.from + b.counts.length * step);
    const found = [];
    for (let z = Math.min(a.from, b.from); z < end; z += step)
      found.push({ z, count: Math.expm1(height(a, z) + (height(b, z) - height(a, z)) * (at - i)) });
    return found;
  }

  function draw() {
    const t = slider.value / slider.max, one = exhibit(), s = scale();
    const histogram = counts(one, t), parts = [];
    plot.setAttribute("viewBox", `0 0 ${s.width} ${HEIGHT}`);
    parts.push(svg("path", { class: "inside", d: bars(histogram, s, one.threshold, false) }));
    parts.push(svg("path", { class: "beyond", d: bars(histogram, s, one.threshold, true) }));
    const curve = normal.map((count, i) => `${s.x((i - (normal.length - 1) / 2) * step)},${s.y(count)}`);
    parts.push(svg("polyline", { class: "normal", points: curve.join(" ") }));
    parts.push(svg("line", { class: "axis", x1: 0, x2: s.width, y1: s.y(0), y2: s.y(0) }));
    for (let z = Math.ceil(s.low / 10) * 10; z <= s.high; z += 10)
      parts.push(svg("text", { class: "tick", x: s.x(z), y: HEIGHT - 5 }, z === 0 ? "mean" : z < 0 ? `−${-z}` : z));
    one.tokens.forEach(([name, zs], row) => {
      const z = between(zs, t), x = s.x(z), y = 16 + row * ROW, left = z > (s.low + s.high) / 2;
      if (Math.abs(z) <= one.threshold) return;
      parts.push(svg("line", { class: "stem", x1: x, x2: x, y1: y - 4, y2: s.y(0) }));
      parts.push(svg("circle", { class: "dot", cx: x, cy: y - 4, r: 3 }));
      parts.push(svg("text", { class: left ? "token left" : "token", x: x + (left ? -7 : 7), y }, name));
    });
    plot.replaceChildren(...parts);

    const cosine = between(one.cosine, t), angle = Math.acos(Math.min(1, cosine));
    const [cx, cy, r] = [12, 84, 70], tip = [cx + r * Math.sin(angle), cy - r * Math.cos(angle)];
    dial.replaceChildren(
      svg("path", { class: "arc", d: `M${cx},${cy - r}A${r},${r} 0 0 1 ${cx + r},${cy}` }),
      svg("line", { class: "from", x1: cx, y1: cy, x2: cx, y2: cy - r }),
      svg("text", { class: "tick left", x: cx + 4, y: cy - r - 3 }, "w"),
      svg("line", { class: "arrow", x1: cx, y1: cy, x2: tip[0], y2: tip[1] }),
      svg("circle", { class: "dot", cx: tip[0], cy: tip[1], r: 5 }),
    );
    const kurtosis = between(one.kurtosis, t), beyond = Math.round(between(one.beyond, t));
    const degrees = Math.round((angle * 180) / Math.PI);
    find(".turn-cosine").textContent = `${cosine.toFixed(2)} (${degrees}°)`;
    find(".turn-kurtosis").textContent = kurtosis.toFixed(kurtosis < 10 ? 1 : 0);
    find(".turn-beyond").textContent = beyond;
    slider.setAttribute("aria-valuetext", `cosine ${cosine.toFixed(2)}, kurtosis ${kurtosis.toFixed(1)}`);
  }

  function told() {
    const { name, why, stands } = neurons[chosen];
    find(".turn-told").textContent = random.checked
      ? `A random vector with the mean and covariance of ${name.replace(/, neuron.*/, "")}.`
      : `${name}: ${why}. ${stands}`;
    find(".turn-threshold").textContent = exhibit().threshold;
    draw();
  }

  function set(now) {
    playing = now;
    play.textContent = playing ? "Pause" : "Play";
  }

  function frame(now) {
    const passed = Math.min(0.1, (now - last) / 1000);
    last = now;
    if (playing && seen) {
      const { there, hold, back } = SECONDS;
      clock = (clock + passed) % (there + hold + back);
      const t = clock < there ? clock / there : clock < there + hold ? 1 : 1 - (clock - there - hold) / back;
      slider.value = slider.max * t * t * (3 - 2 * t);
      draw();
    }
    requestAnimationFrame(frame);
  }

  play.addEventListener("click", () => {
    if (!playing && clock >= SECONDS.there) clock = 0;
    set(!playing);
  });
  slider.addEventListener("input", () => { set(false); clock = 0; draw(); });
  random.addEventListener("change", told);
  root.querySelectorAll("input[type=radio]").forEach((radio, i) =>
    radio.addEventListener("change", () => { chosen = i; clock = 0; told(); }));
  still.addEventListener("change", () => set(!still.matches));
  new IntersectionObserver(([entry]) => { seen = entry.isIntersecting; }).observe(plot);
  new ResizeObserver(draw).observe(plot);
  if (still.matches) slider.value = slider.max;
  root.hidden = false;
  set(playing);
  told();
  requestAnimationFrame(frame);
})();
