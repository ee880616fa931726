// On each page of the book that `scripts/check-book` builds: writes what it finds into the
// attribute `data-check` of the document, where that script reads it.
(() => {
  const report = (text) => document.documentElement.setAttribute('data-check', text);

  const checkPictures = () => {
    const pictures = [...document.querySelectorAll('main img')];
    const broken = pictures.filter((picture) => !picture.complete || picture.naturalWidth === 0);
    const sources = broken.map((picture) => picture.getAttribute('src'));
    report(broken.length === 0 ? `pictures: ${pictures.length}` : `broken: ${sources.join(' ')}`);
  };

  // The book searches for the word in the address by itself. It loads its index meanwhile.
  const checkSearch = (word) => {
    const header = document.querySelector('#mdbook-searchresults-header, #searchresults-header');
    const results = document.querySelectorAll('#mdbook-searchresults li, #searchresults li');
    const text = header ? header.textContent : '';
    if (results.length > 0 && text.includes(word)) {
      report(`found: ${results.length} entries`);
    } else if (/^No search results/.test(text)) {
      report('found nothing');
    } else {
      setTimeout(() => checkSearch(word), 100);
    }
  };

  const word = new URLSearchParams(window.location.search).get('search');
  window.addEventListener('load', () => (word ? checkSearch(word) : checkPictures()));
})();
