// What the page does by itself, for every tab.

// --- the keyboard ----------------------------------------------------------------------------------------------
// Enter in the prompt makes a picture; Ctrl+Enter starts whatever the tab is for.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  const field = event.target.closest?.('textarea, input');
  const strong = event.ctrlKey || event.metaKey;
  if (!field || !(strong || field.closest('#prompt'))) return;
  const starts = ['generate', 'explore', 'ask'].map((id) => document.getElementById(id));
  const button = starts.find((one) => one?.offsetParent);
  if (!button) return;
  event.preventDefault();
  event.stopPropagation();
  field.dispatchEvent(new Event('input', {bubbles: true}));
  const press = () => button.disabled ? setTimeout(press, 100) : button.click();
  setTimeout(press);
}, true);

// --- a page that is loaded again -------------------------------------------------------------------------------
// It shows the tab that it was left at.
const tabs = () => [...document.querySelector('[role=tablist]')?.querySelectorAll('[role=tab]') ?? []];
document.addEventListener('click', (event) => {
  const tab = event.target.closest?.('[role=tab]');
  if (tabs().includes(tab)) sessionStorage.setItem('tab', tab.textContent.trim());
});
new MutationObserver((_, watch) => {
  if (!tabs().length) return;
  watch.disconnect();
  tabs().find((tab) => tab.textContent.trim() === sessionStorage.getItem('tab'))?.click();
}).observe(document, {childList: true, subtree: true});

// --- the phone -------------------------------------------------------------------------------------------------
// There the result lies below the controls: the page goes to it.
const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;
function goTo(id, again = true) {
  const place = document.getElementById(id);
  const top = place?.getBoundingClientRect().top;
  if (place && (top < 0 || top > innerHeight / 3)) {
    place.scrollIntoView({behavior: calm() ? 'auto' : 'smooth', block: 'start'});
  }
  if (again) setTimeout(goTo, 1200, id, false);  // what came above it meanwhile has moved it
}
document.addEventListener('click', (event) => {
  const id = event.target.closest?.('button')?.id;
  const narrow = matchMedia('(max-width: 820px)').matches;
  if (narrow && id === 'generate') goTo('stage');
  if (narrow && id === 'explore') goTo('schedules');
  if (narrow && id === 'ask') goTo('answer');
  if (event.target.closest?.('#history [data-pick]')) goTo('stage');
});

// --- pictures of few pixels keep them ------------------------------------------------------------------------------
document.addEventListener('load', (event) => {
  if (event.target.matches?.('img')) event.target.classList.toggle('pixels', event.target.naturalWidth <= 256);
}, true);

// --- two pictures under a slider -------------------------------------------------------------------------------
document.addEventListener('click', (event) => {
  const chosen = event.target.closest?.('[data-view]');
  if (!chosen) return;
  document.getElementById('stage').dataset.view = chosen.dataset.view;
  for (const one of document.querySelectorAll('#views [data-view]')) one.setAttribute('aria-pressed', one === chosen);
});
document.addEventListener('input', (event) => {
  if (event.target.matches?.('.cut')) event.target.parentElement.style.setProperty('--cut', event.target.value + '%');
});

// --- a picture, large ------------------------------------------------------------------------------------------
const box = document.createElement('dialog');
box.className = 'box';
box.setAttribute('aria-label', 'Picture');
box.innerHTML = '<img alt=""><p></p><div><button type="button" data-go="-1">Back</button>' +
  '<button type="button" data-go="0">Close</button><button type="button" data-go="1">Next</button></div>';
let opened = [], at = 0;
function show(place) {
  at = (place + opened.length) % opened.length;
  const [image, words] = [box.querySelector('img'), opened[at].querySelector('img').alt];
  image.src = opened[at].dataset.large || opened[at].querySelector('img').src;
  image.alt = words;
  const told = opened[at].closest('figure')?.querySelector('figcaption');
  box.querySelector('p').textContent = [words, ...(told?.querySelectorAll('small') ?? [])]
    .map((part) => part.textContent ?? part).filter(Boolean).join(' · ');
  for (const button of box.querySelectorAll('[data-go="1"], [data-go="-1"]')) button.hidden = opened.length < 2;
}
document.addEventListener('click', (event) => {
  const button = event.target.closest?.('button.open');
  if (button) {
    opened = [...button.closest('.cards, .pair').querySelectorAll('button.open')];
    if (!box.isConnected) (document.querySelector('.gradio-container') ?? document.body).append(box);
    show(opened.indexOf(button));
    box.showModal();
  } else if (event.target === box || event.target.closest?.('.box img')) {
    box.close();
  }
  const step = event.target.closest?.('.box [data-go]')?.dataset.go;
  if (step === '0') box.close();
  else if (step) show(at + Number(step));
});
document.addEventListener('keydown', (event) => {
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (box.open && step && opened.length > 1) show(at + step);
});

// --- a picture dropped anywhere on the Playground gives its settings ----------------------------------------------
const files = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === 'file');
const aside = (event) => event.target.closest?.('#picture') || !document.getElementById('drop')?.offsetParent &&
  !document.getElementById('generate')?.offsetParent;
addEventListener('dragover', (event) => {
  if (!files(event) || aside(event)) return;
  event.preventDefault();
  document.body.classList.add('dropping');
});
for (const end of ['dragleave', 'drop']) {
  addEventListener(end, (event) => {
    if (end === 'drop' || !event.relatedTarget) document.body.classList.remove('dropping');
  });
}
addEventListener('drop', (event) => {
  const input = document.getElementById('drop')?.parentElement.querySelector('input[type=file]');
  if (!files(event) || aside(event) || !input) return;
  event.preventDefault();
  const given = new DataTransfer();
  given.items.add(event.dataTransfer.files[0]);
  input.files = given.files;
  input.dispatchEvent(new Event('change', {bubbles: true}));
});

// --- pointing at a step of the schedule --------------------------------------------------------------------------
// It sets the slider, as a click does, and the slider moves the line in the schedule. Only a step where the pointer
// rests counts: each one costs the server pictures, and on its way the pointer crosses many.
function markStep(step) {
  const plot = document.querySelector('#schedule .js-plotly-plot');
  if (plot && window.Plotly) window.Plotly.relayout(plot, {'shapes[0].x0': step, 'shapes[0].x1': step});
}
window.markStep = markStep;
new MutationObserver(() => {
  const plot = document.querySelector('#schedule .js-plotly-plot');
  if (!plot || !plot.on || plot.dataset.bound) return;
  plot.dataset.bound = true;
  const input = document.querySelector('#step input[type=number]');
  markStep(Number(input.value));
  let resting;
  const choose = (event) => {
    clearTimeout(resting);
    const step = event.points[0].x;
    if (Number(input.value) === step) return;
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, step);
    for (const kind of ['input', 'change', 'blur']) input.dispatchEvent(new Event(kind, {bubbles: true}));
  };
  plot.on('plotly_click', choose);
  plot.on('plotly_unhover', () => clearTimeout(resting));
  plot.on('plotly_hover', (event) => {
    clearTimeout(resting);
    resting = setTimeout(choose, 150, event);
  });
}).observe(document, {childList: true, subtree: true});
