//! What changed between two notebooks, cell by cell, as far as the digest counts it.
//!
//! Owns the alignment of code cells and the words for each change. `explain` uses it to say which
//! cell made a run wanted. It must not compare outputs or prose: those are no changes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::digest::{counted_cells, counted_tags, normal_source};
use super::model::Notebook;

/// The code cells of a notebook as they count, kept with a run so that the next one can say what
/// changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// The kernel's name.
    pub kernel: Option<String>,
    /// The cells that count, in order.
    pub cells: Vec<OutlineCell>,
}

/// One code cell that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlineCell {
    /// Position among all cells of the notebook, from 1, as a person counts them.
    pub number: usize,
    /// The source, with `\n` line endings.
    pub source: String,
    /// The tags that count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl Outline {
    /// The outline of a notebook under the kernel that the step names, else its own.
    pub fn of(notebook: &Notebook, kernel: Option<&str>) -> Self {
        let cells = counted_cells(notebook).map(|(index, cell)| OutlineCell {
            number: index + 1,
            source: normal_source(cell),
            tags: counted_tags(cell).into_iter().map(str::to_owned).collect(),
        });
        let kernel = kernel.map(str::to_owned).or_else(|| notebook.kernel_name());
        Self { kernel, cells: cells.collect() }
    }
}

/// One difference that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Change {
    /// The kernel's name is another.
    Kernel {
        /// Before.
        from: Option<String>,
        /// After.
        to: Option<String>,
    },
    /// A cell that was not there.
    Added {
        /// The cell's number in the new notebook.
        cell: usize,
        /// Its source.
        source: String,
    },
    /// A cell that is gone.
    Removed {
        /// The cell's number in the old notebook.
        cell: usize,
        /// Its source.
        source: String,
    },
    /// A cell whose source or tags are others.
    Edited {
        /// The cell's number in the new notebook.
        cell: usize,
        /// The first line that differs, from 1.
        line: usize,
        /// That line before.
        from: String,
        /// That line after.
        to: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |kernel: &Option<String>| kernel.clone().unwrap_or_else(|| "none".into());
        match self {
            Self::Kernel { from, to } => {
                write!(formatter, "kernel changed from {} to {}", name(from), name(to))
            }
            Self::Added { cell, source } => {
                write!(formatter, "cell {cell} added: {}", first_line(source))
            }
            Self::Removed { cell, source } => {
                write!(formatter, "cell {cell} removed: {}", first_line(source))
            }
            Self::Edited { cell, line, from, to } if from == to => {
                write!(formatter, "cell {cell} line {line}: tags changed")
            }
            Self::Edited { cell, line, from, to } => {
                write!(formatter, "cell {cell} line {line}: ")?;
                match (cut(from), cut(to)) {
                    (from, to) if from == to => formatter.write_str("its white space changed"),
                    (from, to) if from.is_empty() => write!(formatter, "`{to}` added"),
                    (from, to) if to.is_empty() => write!(formatter, "`{from}` removed"),
                    (from, to) => write!(formatter, "`{from}` became `{to}`"),
                }
            }
        }
    }
}

fn first_line(source: &str) -> String {
    cut(source.trim().lines().next().unwrap_or_default())
}

fn cut(line: &str) -> String {
    let line = line.trim();
    match line.char_indices().nth(72) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

/// All differences that count, in the order of the new notebook.
pub fn diff(old: &Outline, new: &Outline) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.kernel != new.kernel {
        changes.push(Change::Kernel { from: old.kernel.clone(), to: new.kernel.clone() });
    }
    let same = |a: &OutlineCell, b: &OutlineCell| a.source == b.source && a.tags == b.tags;
    let (old, new) = (&old.cells[..], &new.cells[..]);
    let head = old.iter().zip(new).take_while(|(a, b)| same(a, b)).count();
    let tail = old[head..]
        .iter()
        .rev()
        .zip(new[head..].iter().rev())
        .take_while(|(a, b)| same(a, b))
        .count();
    let (old, new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let kept = common(old, new, same);
    let (mut i, mut j) = (0, 0);
    for &(next_i, next_j) in kept.iter().chain([&(old.len(), new.len())]) {
        // Between two kept cells, cells pair up in order as edits; the rest came or went.
        while i < next_i && j < next_j {
            changes.push(edit(&old[i], &new[j]));
            i += 1;
            j += 1;
        }
        changes.extend(
            old[i..next_i]
                .iter()
                .map(|cell| Change::Removed { cell: cell.number, source: cell.source.clone() }),
        );
        changes.extend(
            new[j..next_j]
                .iter()
                .map(|cell| Change::Added { cell: cell.number, source: cell.source.clone() }),
        );
        (i, j) = (next_i + 1, next_j + 1);
    }
    changes
}

/// Longest common subsequence of cells, by dynamic programming. Above a million pairs it is not
/// worth its memory, and everything between head and tail counts as edited.
fn common(
    old: &[OutlineCell],
    new: &[OutlineCell],
    same: impl Fn(&OutlineCell, &OutlineCell) -> bool,
) -> Vec<(usize, usize)> {
    if old.len().saturating_mul(new.len()) > 1_000_000 {
        return Vec::new();
    }
    let width = new.len() + 1;
    let mut length = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i * width + j] = if same(&old[i], &new[j]) {
                length[(i + 1) * width + j + 1] + 1
            } else {
                length[(i + 1) * width + j].max(length[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < old.len() && j < new.len() {
        if same(&old[i], &new[j]) {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if length[(i + 1) * width + j] >= length[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

fn edit(old: &OutlineCell, new: &OutlineCell) -> Change {
    let mut lines = old.source.split('\n').zip(new.source.split('\n'));
    let shared = lines.by_ref().take_while(|(a, b)| a == b).count();
    let line =
        |cell: &OutlineCell| cell.source.split('\n').nth(shared).unwrap_or_default().to_owned();
    if old.source == new.source {
        return Change::Edited { cell: new.number, line: 1, from: line(old), to: line(new) };
    }
    Change::Edited { cell: new.number, line: shared + 1, from: line(old), to: line(new) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(sources: &[&str]) -> Outline {
        let cells = sources.iter().enumerate().map(|(index, source)| OutlineCell {
            number: index + 1,
            source: (*source).to_owned(),
            tags: Vec::new(),
        });
        Outline { kernel: Some("python3".into()), cells: cells.collect() }
    }

    fn words(old: &[&str], new: &[&str]) -> Vec<String> {
        diff(&outline(old), &outline(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_change_names_its_cell() {
        assert!(words(&["a", "b"], &["a", "b"]).is_empty());
        assert_eq!(
            words(&["a", "x = 1\ny = 2", "c"], &["a", "x = 1\ny = 3", "c"]),
            ["cell 2 line 2: `y = 2` became `y = 3`"]
        );
        assert_eq!(words(&["a"], &["a\nb"]), ["cell 1 line 2: `b` added"]);
        assert_eq!(words(&["a\nb"], &["a"]), ["cell 1 line 2: `b` removed"]);
        assert_eq!(words(&["a"], &["a "]), ["cell 1 line 1: its white space changed"]);
        assert_eq!(words(&["a", "c"], &["a", "b", "c"]), ["cell 2 added: b"]);
        assert_eq!(words(&["a", "b", "c"], &["a", "c"]), ["cell 2 removed: b"]);
        assert_eq!(
            words(&["a", "b", "c", "d"], &["q", "b", "d", "e"]),
            ["cell 1 line 1: `a` became `q`", "cell 3 removed: c", "cell 4 added: e"]
        );
    }
}
