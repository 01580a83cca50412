// Opens the slices in niivue (inlined, compressed); until then, without WebGL 2 and on paper, the picture stays.
(() => {
  "use strict";
  const at = (id) => document.getElementById(id);
  const text = (id) => at(id).textContent.trim();
  const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const names = JSON.parse(text("viewer-names"));
  const [button, said, number, outlined, canvas] = ["open", "said", "number", "labels", "canvas"].map((n) => at("viewer-" + n));
  let begun = false;

  async function open() {
    if (begun) return;
    begun = true;
    said.textContent = "Opening …";
    try {
      if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser shows no WebGL 2");
      const packed = new Blob([bytes(text("niivue-program"))]).stream().pipeThrough(new DecompressionStream("gzip"));
      const program = document.createElement("script");
      program.textContent = await new Response(packed).text();
      document.head.append(program);
      const { Niivue, NVImage, SLICE_TYPE } = window.niivue;
      at("viewer").classList.add("opened");
      const nv = new Niivue({
        backColor: [0, 0, 0, 1], crosshairWidth: 0, isColorbar: false, isOrientCube: false, isRadiologicalConvention: true,
        sliceType: SLICE_TYPE.AXIAL, loadingText: "", dragAndDropEnabled: false, isSliceMM: false,
      });
      await nv.attachToCanvas(canvas);
      nv.addVolume(await NVImage.loadFromBase64({ base64: text("viewer-image"), name: "slices.nii.gz", cal_min: 0, cal_max: 255 }));
      if (at("viewer-label")) {
        const label = await NVImage.loadFromBase64({ base64: text("viewer-label"), name: "labels.nii.gz", opacity: 0 });
        label.setColormapLabel(JSON.parse(text("viewer-colours")));
        nv.addVolume(label);
      }
      const show = () => {
        const n = Number(number.value);
        nv.scene.crosshairPos = [0.5, 0.5, (n + 0.5) / names.length];
        if (nv.volumes.length > 1) nv.setOpacity(1, outlined.checked ? 0.45 : 0);
        nv.drawScene();
        said.textContent = names[n] + " (" + (n + 1) + " of " + names.length + ")";
        number.setAttribute("aria-valuetext", said.textContent);
      };
      nv.onLocationChange = () => {
        const n = Math.round(nv.scene.crosshairPos[2] * names.length - 0.5);
        if (n !== Number(number.value)) { number.value = n; show(); }
      };
      number.addEventListener("input", show);
      outlined.addEventListener("change", show);
      show();
      number.focus({ preventScroll: true });
    } catch (error) {
      at("viewer").classList.remove("opened");
      said.textContent = "The viewer cannot open here (" + error.message + "); the pictures on this page show the same slices.";
    }
  }
  button.addEventListener("click", open);
  if (location.hash === "#viewer") open();
})();
