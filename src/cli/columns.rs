//! Text in columns.

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column: its heading, its least width, where its text stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its heading.
    pub heading: &'static str,
    /// Least width in characters; it grows with its text.
    pub width_min: usize,
    /// Where its text stands.
    pub align: Align,
}

impl Column {
    /// A column of words.
    pub const fn left(heading: &'static str) -> Column {
        Column {
            heading,
            width_min: 0,
            align: Align::Left,
        }
    }

    /// A column of numbers.
    pub const fn right(heading: &'static str) -> Column {
        Column {
            heading,
            width_min: 0,
            align: Align::Right,
        }
    }
}

/// How a table is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    /// Between two columns.
    pub separator: &'a str,
    /// Whether columns are filled up to their width.
    pub aligned: bool,
    /// Whether headings are shown.
    pub headings: bool,
    /// Headings stand as the numbers below them do; dmsetup's are all to the left.
    pub headings_as_column: bool,
}

impl Layout<'_> {
    /// As this program's own tables look.
    pub const OURS: Layout<'static> = Layout {
        separator: "  ",
        aligned: true,
        headings: true,
        headings_as_column: true,
    };
}

/// Lays out rows, each with as many cells as there are columns. Lines have no blanks at their end.
pub(super) fn render(columns: &[Column], rows: &[Vec<String>], layout: Layout<'_>) -> String {
    let width = |index: usize| {
        let cells = rows
            .iter()
            .map(|row| row[index].chars().count())
            .max()
            .unwrap_or(0);
        let heading = if layout.headings {
            columns[index].heading.chars().count()
        } else {
            0
        };
        cells.max(heading).max(columns[index].width_min)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let pad = |text: &str, index: usize, align: Align| match (layout.aligned, align) {
        (false, _) => text.to_owned(),
        (true, Align::Left) => format!("{text:<0$}", widths[index]),
        (true, Align::Right) => format!("{text:>0$}", widths[index]),
    };
    let mut text = String::new();
    let mut line = |cells: Vec<String>| {
        text.push_str(cells.join(layout.separator).trim_end_matches(' '));
        text.push('\n');
    };
    if layout.headings {
        let align = |column: &Column| {
            if layout.headings_as_column {
                column.align
            } else {
                Align::Left
            }
        };
        line(
            columns
                .iter()
                .enumerate()
                .map(|(index, column)| pad(column.heading, index, align(column)))
                .collect(),
        );
    }
    for row in rows {
        line(
            row.iter()
                .enumerate()
                .map(|(index, cell)| pad(cell, index, columns[index].align))
                .collect(),
        );
    }
    text
}

/// A time for people: three digits and a unit.
pub(super) fn duration(ns: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    scaled(ns, &UNITS).unwrap_or_else(|| format!("{ns} ns"))
}

/// A size for people: three digits and a unit.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    scaled(bytes, &UNITS).unwrap_or_else(|| format!("{bytes} B"))
}

/// Which digests a connection has.
pub(super) fn digests(header: bool, data: bool) -> &'static str {
    match (header, data) {
        (true, true) => "header,data",
        (true, false) => "header",
        (false, true) => "data",
        (false, false) => "none",
    }
}

fn scaled(value: u64, units: &[(u64, &str)]) -> Option<String> {
    let (unit, name) = units.iter().find(|(unit, _)| value >= *unit)?;
    let scaled = value as f64 / *unit as f64;
    let digits = match scaled {
        _ if value.is_multiple_of(*unit) => 0,
        scaled if scaled >= 99.95 => 0,
        scaled if scaled >= 9.995 => 1,
        _ => 2,
    };
    Some(format!("{scaled:.digits$} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let columns = [
            Column::left("NAME"),
            Column::right("IOS"),
            Column::left("X"),
        ];
        let rows = vec![
            vec!["a".into(), "12345".into(), "".into()],
            vec!["long-name".into(), "1".into(), "x".into()],
        ];
        assert_eq!(
            render(&columns, &rows, Layout::OURS),
            "NAME         IOS  X\na          12345\nlong-name      1  x\n"
        );
        let bare = Layout {
            separator: ":",
            aligned: false,
            headings: false,
            headings_as_column: false,
        };
        assert_eq!(render(&columns, &rows, bare), "a:12345:\nlong-name:1:x\n");
        assert_eq!(render(&columns, &[], Layout::OURS), "NAME  IOS  X\n");
    }

    #[test]
    fn numbers_for_people_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 us"),
            (12_345, "12.3 us"),
            (1_234, "1.23 us"),
            (999_400, "999 us"),
            (9_996, "10.0 us"),
            (2_500_000_000, "2.50 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
        assert_eq!(
            (
                bytes(0).as_str(),
                bytes(4096).as_str(),
                bytes(1_500_000).as_str()
            ),
            ("0 B", "4 KiB", "1.43 MiB")
        );
    }
}
