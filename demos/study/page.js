// Runs when the page's part is on the screen, which is `element`; `texts` and `storage` are set before this.
const page = element.querySelector('.study-page');
if (!page.dataset.alive) begin();

function begin() {
  page.dataset.alive = '1';
  const find = (what) => page.querySelector(what);
  const languages = Object.keys(texts);
  const invited = new URLSearchParams(location.search).get('rater');
  const answers = [...find('#study-answers').children];
  const sides = ['left', 'right'];
  const pictures = sides.map((side) => find(`#study-zoom-${side} img`));
  const zoomed = find('.study-zoomed');
  let rater = invited, language = spoken(), screen = {}, busy = false, last = null;

  function remember(value) {
    try {  // a browser may have none
      if (value) localStorage.setItem(storage, value);
      return localStorage.getItem(storage);
    } catch { return null; }
  }
  function spoken() {
    const base = (tag) => tag.toLowerCase().split('-')[0];
    for (const tag of navigator.languages ?? []) {
      const found = languages.find((own) => own.toLowerCase() === tag.toLowerCase())
        ?? languages.find((own) => base(own) === base(tag));
      if (found) return found;
    }
    return languages[0];
  }
  const say = (key, values = {}) =>
    texts[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? '');
  const shows = (element, shown) => { element.hidden = !shown; };

  function translate() {
    page.lang = language;
    page.dir = ['ar', 'fa', 'he', 'ur'].includes(language.split('-')[0]) ? 'rtl' : 'ltr';
    page.querySelectorAll('[data-text]').forEach((element) => { element.textContent = say(element.dataset.text); });
    answers.forEach((button) => { button.textContent = say(button.dataset.choice); });
    const named = {start: 'start', back: 'back', again: 'again', close: 'close'};
    for (const [id, key] of Object.entries(named)) find('#study-' + id).textContent = say(key);
    sides.forEach((side) => find('#study-zoom-' + side).setAttribute('aria-label', say('enlarge_' + side)));
    find('.study-failed p').textContent = say('failed');
    page.querySelectorAll('.study-languages button').forEach((button) => {
      button.setAttribute('aria-pressed', button.lang === language);
    });
  }
  function heading(title, line) {
    find('.question h2').textContent = title;
    find('.question p').textContent = line;
  }
  function draw() {
    const kind = screen.screen, pair = kind === 'pair';
    translate();
    if (pair) heading(texts[language].questions[screen.question], screen.prompt);
    else if (kind === 'intro') heading(say('title'), '');
    else heading(say(kind + '_title'), say(kind));
    shows(find('.study-intro'), kind === 'intro');
    shows(find('.study-languages'), kind === 'intro' && languages.length > 1);
    if (kind === 'intro') {
      find('.study-time').textContent = say('time', screen);
      find('.study-consent').textContent = say(screen.consent);
    }
    ['.pair', '#study-answers', '.study-zoom-hint'].forEach((part) => shows(find(part), pair));
    shows(find('.study-keys'), pair && answers.length === 4);
    shows(find('#study-back'), Boolean(screen.back));
    find('.study-progress').textContent = pair || kind === 'end' ? say('progress', screen) : '';
    answers.forEach((button) => button.classList.toggle('chosen', pair && button.dataset.choice === screen.choice));
  }
  // Answers are open when both pictures can be seen, and not before: a second click is no vote on the next pair.
  async function show(next) {
    if (next.rater) { rater = next.rater; if (rater !== invited) remember(rater); }
    if (next.screen === 'pair') {
      await Promise.all(pictures.map(async (picture, i) => {
        if (picture.dataset.source === next[sides[i]]) return;
        picture.src = next[sides[i]];
        await picture.decode();
        picture.dataset.source = next[sides[i]];
        picture.classList.toggle('pixels', Math.min(picture.naturalWidth, picture.naturalHeight) < 256);
      }));
    }
    screen = next;
    draw();
    find('.question').dataset.shown = next.shown ?? next.screen;
    answers.forEach((button) => { button.disabled = next.screen !== 'pair'; });
  }
  async function ask(what, said = {}) {
    if (busy) return;
    busy = true;
    last = [what, {shown: screen.shown, ...said}];  // tried again it is about the same pair
    answers.forEach((button) => { button.disabled = true; });
    shows(find('.study-failed'), false);
    try {
      const answer = await fetch('study/' + what, {
        method: 'POST', headers: {'content-type': 'application/json'},
        body: JSON.stringify({rater, ...last[1]}),
      });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(await answer.text());
      await show(await answer.json());
    } catch (error) {
      console.warn(error);
      translate();
      shows(find('.study-failed'), true);
    }
    busy = false;
  }
  function enlarge(side) {
    const picture = pictures[sides.indexOf(side)], large = zoomed.querySelector('img');
    large.src = picture.src;
    large.className = picture.className;
    zoomed.setAttribute('aria-label', say('enlarge_' + side));
    if (!zoomed.open) zoomed.showModal();
  }

  if (languages.length > 1) languages.forEach((own) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.lang = own;
    button.textContent = new Intl.DisplayNames([own], {type: 'language'}).of(own);
    button.addEventListener('click', () => { language = own; draw(); });
    find('.study-languages').append(button);
  });
  answers.forEach((button) => button.addEventListener('click', () => ask('vote', {choice: button.dataset.choice})));
  find('#study-start').addEventListener('click', () => ask('start', {language, kept: remember()}));
  find('#study-back').addEventListener('click', () => ask('back'));
  find('#study-again').addEventListener('click', () => ask(...last));
  sides.forEach((side) => find('#study-zoom-' + side).addEventListener('click', () => enlarge(side)));
  zoomed.addEventListener('click', () => zoomed.close());
  const keys = {
    ArrowLeft: 'left', t: 'tie', b: 'bad', ArrowRight: 'right', Backspace: 'back',
    ...Object.fromEntries(answers.map((button, i) => [i + 1, button.dataset.choice])),
  };
  function press(event) {
    const key = keys[event.key.length > 1 ? event.key : event.key.toLowerCase()];
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    if (zoomed.open) {  // the arrows go from one picture to the other, and vote on none
      if (sides.includes(key)) enlarge(key);
      return;
    }
    const typing = event.target.closest('input, textarea, select, [contenteditable], [role=tablist]');
    const button = document.getElementById('study-' + key);
    if (typing || !button?.offsetParent) return;
    event.preventDefault();
    button.click();
  }
  document.removeEventListener('keydown', window.studyKeys);  // of this part when it was on the screen before
  document.addEventListener('keydown', window.studyKeys = press);
  ask('enter', {kept: remember()});
}
