// The viewer of `viscera view` and `viscera report`. The page holds what to show as JSON in #case; the images are either
// files beside the page (view) or base64 text within it (report). NiiVue draws; everything else on the page is plain HTML
// that can be read without this script.
(() => {
  "use strict";

  // Usual windows of an abdominal CT, width and level in HU.
  const WINDOWS = [
    { name: "Abdomen", width: 400, level: 40 },
    { name: "Liver", width: 150, level: 70 },
    { name: "Lung", width: 1500, level: -600 },
    { name: "Bone", width: 1800, level: 400 },
  ];
  const TURN_DEGREES = 10;
  const GAP_PX = 12; // between the planes, as in the style
  // Seen from the patient's front, a little from the left and from above.
  const FIRST_TURN = { azimuth: 200, elevation: 10 };

  const NARROW = matchMedia("(max-width: 699px)");

  const element = (id) => document.getElementById(id);
  const info = JSON.parse(element("case").textContent);
  const hidden = new Set();
  const waiting = new Set();
  let overlayOff = false;

  function say(text) {
    element("message").textContent = text;
    element("message").hidden = !text;
  }

  async function imageBytes(image) {
    if (image.url) {
      const answer = await fetch(image.url);
      if (!answer.ok) throw new Error(`${image.url}: ${answer.status}`);
      return answer.arrayBuffer();
    }
    const text = atob(element(image.embedded).textContent.trim());
    return Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer;
  }

  function niivueOptions(more) {
    return {
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      crosshairWidthUnit: "percent",
      crosshairWidth: 0.6,
      dragAndDropEnabled: false, // only the session's own images
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      viewModeHotKey: "",
      loadingText: "",
      logLevel: "error",
      backColor: [0, 0, 0, 1],
      fontColor: [0.9, 0.9, 0.9, 1],
      ...more,
    };
  }

  // NiiVue's table of label colours: one entry per label from 0 on, without gaps.
  function labelColours() {
    const count = Math.max(...info.organs.map((organ) => organ.index)) + 1;
    const table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    for (let index = 0; index < count; index += 1) {
      const organ = info.organs.find((one) => one.index === index);
      const [red, green, blue] = organ ? organ.colour : [0, 0, 0];
      table.R.push(red);
      table.G.push(green);
      table.B.push(blue);
      table.A.push(organ && !hidden.has(index) ? 255 : 0);
      table.I.push(index);
      table.labels.push(organ ? organ.name : "");
    }
    return table;
  }

  // A change of colours takes a pass over all voxels, so that several changes within one frame are made as one.
  function redraw(viewer) {
    if (waiting.has(viewer)) return;
    waiting.add(viewer);
    requestAnimationFrame(() => {
      waiting.delete(viewer);
      viewer.updateGLVolume();
    });
  }

  function recolour(viewer, place) {
    viewer.volumes[place].setColormapLabel(labelColours());
    redraw(viewer);
  }

  function setWindow(viewer, choice) {
    viewer.volumes[0].cal_min = choice.level - choice.width / 2;
    viewer.volumes[0].cal_max = choice.level + choice.width / 2;
    redraw(viewer);
  }

  // Three planes make a square whose last quarter is for the organs in space; on a narrow page they make a column.
  function setLayout(planes, name) {
    const { AXIAL, CORONAL, SAGITTAL, MULTIPLANAR } = niivue.SLICE_TYPE;
    const { COLUMN, GRID } = niivue.MULTIPLANAR_TYPE;
    const single = { axial: AXIAL, coronal: CORONAL, sagittal: SAGITTAL }[name];
    const narrow = NARROW.matches;
    element("canvases").className = single !== undefined ? "single" : narrow ? "column" : "grid";
    planes.setMultiplanarLayout(narrow ? COLUMN : GRID);
    planes.setSliceType(single ?? MULTIPLANAR);
  }

  // Tells the style how much room the planes fill.
  function setAspects(volume) {
    const [x, y, z] = [1, 2, 3].map((axis) => volume.dimsRAS[axis] * volume.pixDimsRAS[axis]);
    const values = {
      "--grid-aspect": (x + y) / (y + z),
      "--column-aspect": Math.max(x, y) / (y + 2 * z),
      "--quarter-left": x / (x + y),
      "--quarter-top": z / (y + z),
    };
    for (const [name, value] of Object.entries(values)) document.documentElement.style.setProperty(name, value);
  }

  function tellPlace(location) {
    const [x, y, z] = location.mm; // NIfTI's world: to the patient's right, front and head
    const value = Math.round(location.values[0].value);
    const label = location.values.length > 1 ? Math.round(location.values[1].value) : 0;
    const organ = info.organs.find((one) => one.index === label);
    const sides = [x < 0 ? "L" : "R", y < 0 ? "P" : "A", z < 0 ? "I" : "S"];
    const millimetres = [x, y, z].map((length, axis) => `${sides[axis]} ${Math.abs(length).toFixed(0)}`).join("  ");
    element("place").textContent = `${millimetres} mm \u00b7 ${value} HU${organ ? ` \u00b7 ${organ.name}` : ""}`;
  }

  function jump(planes, organ) {
    // Of the first volume, and exact also where the scan's axes are oblique.
    planes.scene.crosshairPos = planes.mm2frac(organ.inside_ras_mm, 0, true);
    planes.createOnLocationChange();
    planes.drawScene();
  }

  function addWindows(planes) {
    WINDOWS.forEach((choice, number) => {
      const label = document.createElement("label");
      const radio = document.createElement("input");
      Object.assign(radio, { type: "radio", name: "window", value: choice.name, checked: number === 0 });
      radio.addEventListener("change", () => setWindow(planes, choice));
      label.title = `width ${choice.width} HU, level ${choice.level} HU`;
      label.append(radio, choice.name);
      element("windows").append(label);
    });
  }

  // The rows of the table get a box to show or hide the organ, and a button to go there; the whole row does that too.
  function addOrganControls(planes, solid) {
    for (const organ of info.organs) {
      const row = document.querySelector(`tr[data-organ="${organ.index}"]`);
      if (!row || !organ.inside_ras_mm) continue;
      const box = document.createElement("input");
      Object.assign(box, { type: "checkbox", checked: true });
      box.setAttribute("aria-label", `show ${organ.name}`);
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(organ.index);
        else hidden.add(organ.index);
        recolour(planes, 1);
        recolour(solid, 0);
      });
      row.querySelector(".show").append(box);
      const name = row.querySelector(".name");
      const button = document.createElement("button");
      button.type = "button";
      button.append(...name.childNodes);
      button.title = `go to ${organ.name}`;
      name.append(button);
      row.classList.add("jumps");
      row.addEventListener("click", (event) => {
        if (event.target !== box) jump(planes, organ);
      });
    }
    for (const head of document.querySelectorAll(".show")) head.hidden = false;
  }

  function setOpacity(planes) {
    planes.volumes[1].opacity = overlayOff ? 0 : element("opacity").valueAsNumber / 100;
    redraw(planes);
  }

  function planesKey(planes, event) {
    const steps = {
      ArrowLeft: [1, 0, 0], // the patient's right is on the picture's left
      ArrowRight: [-1, 0, 0],
      ArrowUp: [0, 1, 0],
      ArrowDown: [0, -1, 0],
      PageUp: [0, 0, 1],
      PageDown: [0, 0, -1],
    };
    const radio = document.querySelectorAll("#windows input")[Number(event.key) - 1];
    if (event.key in steps) {
      planes.moveCrosshairInVox(...steps[event.key]);
      planes.createOnLocationChange();
    } else if (radio) {
      radio.click();
    } else if (event.key.toLowerCase() === "o" && info.labels) {
      overlayOff = !overlayOff;
      setOpacity(planes);
    } else {
      return;
    }
    event.preventDefault();
  }

  function solidKey(solid, event) {
    const turns = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (!(event.key in turns)) return;
    const [aside, up] = turns[event.key];
    const { renderAzimuth, renderElevation } = solid.scene;
    solid.setRenderAzimuthElevation(renderAzimuth + aside * TURN_DEGREES, renderElevation + up * TURN_DEGREES);
    event.preventDefault();
  }

  function onKey(id, act) {
    element(id).addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.altKey) act(event);
    });
  }

  // A viewer that shows images as `prepare` has set them: until then nothing is drawn, as NiiVue would draw all voxels
  // anew after every single step.
  async function makeViewer(id, images, options, prepare) {
    const viewer = new niivue.Niivue(niivueOptions(options));
    await viewer.attachToCanvas(element(id));
    element(id).removeAttribute("tabindex"); // the frame around it takes the focus, and the keys
    Object.assign(viewer, { updateGLVolume() {}, drawScene() {} });
    for (const [number, image] of images.entries()) await viewer.loadFromArrayBuffer(image, `image${number}.nii`);
    prepare(viewer);
    delete viewer.updateGLVolume;
    delete viewer.drawScene;
    redraw(viewer);
    await new Promise((drawn) => requestAnimationFrame(drawn));
    return viewer;
  }

  function makePlanes(ct, labels) {
    const options = {
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      multiplanarPadPixels: GAP_PX,
      crosshairColor: [0.2, 0.8, 1, 0.6],
    };
    return makeViewer("planes", labels ? [ct, labels] : [ct], options, (planes) => {
      planes.onLocationChange = tellPlace;
      setAspects(planes.volumes[0]);
      setLayout(planes, "all");
      setWindow(planes, WINDOWS[0]);
      if (labels) {
        recolour(planes, 1);
        setOpacity(planes);
      }
    });
  }

  function makeSolid(ct, labels) {
    return makeViewer("solid", [labels ?? ct], { isOrientCube: true }, (solid) => {
      solid.setSliceType(niivue.SLICE_TYPE.RENDER);
      solid.setScale(info.zoom);
      solid.setRenderAzimuthElevation(FIRST_TURN.azimuth, FIRST_TURN.elevation);
      if (labels) recolour(solid, 0);
      else setWindow(solid, WINDOWS[0]);
    });
  }

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      say("This browser does not offer WebGL 2, which the interactive pictures need.");
      document.body.dataset.state = "static";
      return;
    }
    say("Loading the images \u2026");
    const ct = await imageBytes(info.ct);
    const labels = info.labels && (await imageBytes(info.labels));
    element("viewer").hidden = false;
    const planes = await makePlanes(ct, labels);
    const solid = await makeSolid(ct, labels);
    addWindows(planes);
    for (const changing of [element("layout"), NARROW]) {
      changing.addEventListener("change", () => setLayout(planes, element("layout").value));
    }
    onKey("planes-frame", (event) => planesKey(planes, event));
    onKey("solid-frame", (event) => solidKey(solid, event));
    if (labels) {
      addOrganControls(planes, solid);
      element("opacity").addEventListener("input", () => setOpacity(planes));
      const first = info.organs.find((organ) => organ.inside_ras_mm);
      if (first) jump(planes, first);
    } else {
      for (const part of document.querySelectorAll(".with-labels")) part.hidden = true;
    }
    say("");
    window.visceraViewer = { planes, solid }; // for the browser's console
    document.body.dataset.state = "ready";
  }

  start().catch((error) => {
    say(`The interactive pictures cannot be shown: ${error.message}`);
    document.body.dataset.state = "failed";
  });
})();
