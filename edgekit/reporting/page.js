'use strict'
// Turns the heads of tables into buttons that sort. The page is complete without it.
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells]
  if (body.rows.length < 2) continue
  heads.forEach((head, column) => {
    const button = document.createElement('button')
    button.type = 'button'
    button.title = 'Sort by this column'
    button.append(...head.childNodes)
    head.append(button)
    button.addEventListener('click', () => {
      const rising = head.getAttribute('aria-sort') !== 'ascending'
      const key = row => row.cells[column].dataset.k
      const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b
      const rows = [...body.rows]
      const known = rows.filter(row => key(row) !== undefined)
      known.sort((a, b) => (rising ? 1 : -1) * compare(key(a), key(b)))
      heads.forEach(other => other.removeAttribute('aria-sort'))
      head.setAttribute('aria-sort', rising ? 'ascending' : 'descending')
      body.append(...known, ...rows.filter(row => key(row) === undefined))
    })
  })
}
