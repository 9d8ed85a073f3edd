//! The nearest of some known words, for "did you mean".

/// The known word that a typed one was probably meant to be.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (typed.chars().count() / 3).max(1);
    let near = known.into_iter().map(|word| (distance(typed, word), word)).min()?;
    Some(near).filter(|(distance, _)| *distance <= limit).map(|(_, word)| word)
}

/// How many letters have to be added, taken, changed or swapped.
fn distance(one: &str, two: &str) -> usize {
    let (one, two): (Vec<char>, Vec<char>) = (one.chars().collect(), two.chars().collect());
    let mut rows = vec![(0..=two.len()).collect::<Vec<usize>>()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=two.len() {
            let change = usize::from(one[i - 1] != two[j - 1]);
            let mut best = (rows[i - 1][j - 1] + change).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == two[j - 2] && one[i - 2] == two[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_nonsense_none() {
        let known = ["sources", "policy", "edits", "hooks"];
        assert_eq!(nearest("sorces", known), Some("sources"));
        assert_eq!(nearest("hoosk", known), Some("hooks"));
        assert_eq!(nearest("database", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
