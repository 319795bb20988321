"""Ways in which a video becomes frames; the component kind ``video`` (`data.media.video`)."""

from mmcredit.data.videos.base import VideoLoader, VideoReader, video_loader

__all__ = ["VideoLoader", "VideoReader", "video_loader"]
